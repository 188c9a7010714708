"""The tensors of a request: which there are, and how rows are read from them.

Triton wants the rows first in every tensor, so that a list column is a matrix with a count a row:
``exclude`` (n, m) and ``exclude_count`` (n, 1). Without the counts all of a row counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64, array_module
from merlin_poeem.search.ragged import offsets_of
from merlin_poeem.serving.input_spec import TEXT, InputSpec

Arrays = Mapping[str, NDArray[Any]]
COUNT = "_count"
"""What the name of a list's counts ends in."""


@dataclass(frozen=True, eq=False)
class Column:
    """The values of an input, for each row of a request."""

    values: NDArray[Any]
    """(n,), or (n, length) of lists of one length; of lists of any length the values of all rows.

    Texts are objects: ``str``."""
    offsets: Int64 | None = None
    """(n + 1,) where each list starts, and the last ends; None where none are ragged."""

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1


def n_rows_of(arrays: Arrays) -> int:
    """The rows of a request; ``ValueError`` where its tensors disagree, or there are none."""
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if not lengths:
        raise ValueError("request: expected tensors, got none")
    n_rows = next(iter(lengths.values()))
    for name, length in lengths.items():
        if length != n_rows:
            raise ValueError(f"{name}: expected {n_rows} rows, as the others have; got {length}")
    return n_rows


def read_column(spec: InputSpec, arrays: Arrays) -> Column | None:
    """The column that ``spec`` describes, or None where it is optional and not there.

    Raises ``ValueError`` on a missing column, a wrong shape, counts that do not fit or texts that
    are not UTF-8, and ``TypeError`` on a wrong dtype.
    """
    if spec.length is None:
        return read_lists(spec.name, spec.dtype, arrays, optional=spec.optional)
    array = _array_of(spec.name, spec.dtype, arrays, optional=spec.optional)
    if array is None:
        return None
    width = spec.length or 1
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"{spec.name}: expected shape (n, {width}), got {array.shape}")
    return Column(array if spec.length else array.reshape(-1))


def read_lists(name: str, dtype: str, arrays: Arrays, *, optional: bool = True) -> Column | None:
    """The ragged lists ``name``, with the counts beside them; raises as :func:`read_column`."""
    matrix = _array_of(name, dtype, arrays, optional=optional)
    counts = arrays.get(name + COUNT)
    if matrix is None:
        if counts is not None:
            raise ValueError(f"{name + COUNT}: expected {name} beside it, got none")
        return None
    if matrix.ndim != 2:
        raise ValueError(f"{name}: expected shape (n, m), got {matrix.shape}")
    n_rows, width = matrix.shape
    if counts is None:
        offsets = np.arange(n_rows + 1, dtype=np.int64) * width
        return Column(matrix.reshape(-1), offsets)
    lengths = read_integers(name + COUNT, arrays)
    wrong = np.flatnonzero((lengths < 0) | (lengths > width))
    if len(wrong):
        raise ValueError(
            f"{name + COUNT}: expected counts from 0 to {width}, the width of {name}; got "
            f"{lengths[wrong[0]]} in row {wrong[0]}"
        )
    return Column(matrix[np.arange(width) < lengths[:, None]], offsets_of(lengths))


def read_integers(name: str, arrays: Arrays) -> Int64:
    """(n,) int64 of an integer tensor (n, 1) that is there; raises as :func:`read_column`."""
    array = arrays[name]
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 1:
        raise ValueError(f"{name}: expected shape (n, 1), got {array.shape}")
    return array.reshape(-1).astype(np.int64)


def concatenated(columns: list[Column]) -> Column:
    """The rows of all columns, one after the other."""
    if len(columns) == 1:
        return columns[0]
    xp = array_module(*(column.values for column in columns))
    values = xp.concatenate([column.values for column in columns])
    if columns[0].offsets is None:
        return Column(values)
    lengths = [np.diff(column.offsets) for column in columns if column.offsets is not None]
    return Column(values, offsets_of(np.concatenate(lengths)))


def as_texts(name: str, array: NDArray[Any]) -> NDArray[np.object_]:
    """Texts of Triton's bytes, of the same shape; ``ValueError`` where they are not UTF-8."""
    texts = np.empty(array.size, object)
    for i, value in enumerate(array.reshape(-1).tolist()):
        if isinstance(value, str):
            texts[i] = value
            continue
        try:
            texts[i] = bytes(value).decode()
        except UnicodeDecodeError as error:
            row = i // max(1, array[0].size) if array.ndim > 1 else i
            raise ValueError(
                f"{name}: expected texts in UTF-8, got {value[:32]!r} in row {row}"
            ) from error
    return texts.reshape(array.shape)


def _array_of(name: str, dtype: str, arrays: Arrays, *, optional: bool) -> NDArray[Any] | None:
    array = arrays.get(name)
    if array is None:
        if optional:
            return None
        raise ValueError(f"{name}: expected it in the request, got {sorted(arrays)}")
    if dtype == TEXT:
        if array.dtype.kind not in "OSU":
            raise TypeError(f"{name}: expected texts, got {array.dtype}")
        return as_texts(name, array)
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {array.dtype}")
    return array
