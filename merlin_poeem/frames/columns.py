"""The one reader of a frame's columns: vectors, ids and lists, as arrays.

pandas columns, and cuDF columns for what runs on the host, are read through Arrow. A cuDF column
for a searcher on the device stays there: CuPy arrays, which share the column's memory where that is
possible. Errors name the column, and the first wrong row, counted from 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64, array_module, as_item_ids, as_vectors
from merlin_poeem.frames import cudf_calls
from merlin_poeem.frames.cudf_calls import is_cudf
from merlin_poeem.frames.json_vectors import parse_vectors
from merlin_poeem.search.ragged import IdLists, offsets_of


def library_of(frame: Any) -> ModuleType:
    """pandas or cudf, which was imported to make ``frame``; ``TypeError`` where it is no frame."""
    name = type(frame).__module__.partition(".")[0]
    if name not in ("pandas", "cudf") or not hasattr(frame, "columns"):
        raise TypeError(f"frame: expected a pandas or cuDF DataFrame, got {type(frame).__name__}")
    return sys.modules[name]


def column_of(frame: Any, name: str) -> Any:
    """The column ``name``; ``TypeError`` for no frame, ``ValueError`` unless it is there once."""
    library_of(frame)
    if name not in frame.columns:
        names = [str(column) for column in frame.columns]
        raise ValueError(f"column {name!r}: expected it in the frame, got {names}")
    column = frame[name]
    if hasattr(column, "columns"):
        raise ValueError(f"column {name!r}: expected it once in the frame, got {column.shape[1]}")
    return column


def read_vectors(
    frame: Any, vectors: str | Sequence[str], *, dim: int | None = None, on_device: bool = False
) -> Float32:
    """The vectors of ``frame``, (n, dim) float32, NumPy's, or CuPy's where ``on_device``.

    Values become the nearest float32, also from float64: JSON has no narrower type, and most files
    were float32 before.

    Parameters
    ----------
    vectors
        One column, a row a JSON array of numbers (parsed on the host), or a list or array of
        numbers. Or the names of several columns of numbers, one a dimension.
    dim
        The width that they must have, and that a frame without rows has; None takes that of row 0.

    Raises
    ------
    TypeError
        Not a frame, or a column of anything else.
    ValueError
        No such column, no rows (where ``dim`` is None), or a row that is null, no JSON array of
        numbers, not finite in float32, or of another width.
    """
    if not isinstance(vectors, str):
        return _read_wide(frame, list(vectors), dim, on_device)
    name = f"column {vectors!r}"
    if not len(column_of(frame, vectors)) and dim is None:
        raise ValueError(f"{name}: expected at least one row, got none")
    lengths, values = _lengths_and_values(frame, vectors, on_device)
    _check_lengths(name, lengths, dim)
    width = dim if dim is not None else int(lengths[0])
    return as_vectors(name, _to_float32(values).reshape(len(lengths), width), dim)


def read_ids(frame: Any, name: str) -> Int64:
    """The ids in the column ``name``, (n,) int64, on the host.

    Raises ``TypeError`` where they are no integers, ``ValueError`` on a missing column, a null, or
    ids that do not fit in int64.
    """
    return as_item_ids(f"column {name!r}", read_numbers(frame, name))


def read_known_ids(frame: Any, name: str) -> tuple[NDArray[np.bool_], Int64]:
    """Which rows hold an id, (n,) bool, and those ids, (n_known,) int64, on the host.

    Whole floats are taken too, which is what pandas makes of integers with a null among them.
    ``TypeError`` on anything else, ``ValueError`` on a missing column or ids beyond int64.
    """
    array = read_arrow(frame, name)
    known = ~array.is_null().to_numpy(zero_copy_only=False)
    values = array.drop_null().to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = _whole_numbers(name, values)
    return known, as_item_ids(f"column {name!r}", values)


def read_numbers(frame: Any, name: str) -> NDArray[Any]:
    """A column with one number a row, (n,) of its own dtype, on the host; a null is an error."""
    array = read_arrow(frame, name)
    check_no_nulls(f"column {name!r}", array)
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers


def read_id_lists(frame: Any, name: str, *, on_device: bool = False) -> IdLists:
    """The list of ids of each row; a null is an empty list. Errors as of :func:`read_lists`."""
    lengths, values = read_lists(frame, name, on_device=on_device)
    offsets = offsets_of(array_module(lengths).maximum(lengths, 0))
    return IdLists(offsets, as_item_ids(f"column {name!r}", values))


def read_lists(frame: Any, name: str, *, on_device: bool = False) -> tuple[Int64, NDArray[Any]]:
    """A list column as the length of each row, −1 for a null, and the values of all rows.

    A null in a list of floats is NaN. ``TypeError`` on anything but lists of numbers;
    ``ValueError`` on a missing column, or a null in a list of integers.
    """
    column = column_of(frame, name)
    if on_device:
        return _lists_on_device(name, column)
    return _lists_of_arrow(name, read_arrow(frame, name))


def read_arrow(frame: Any, name: str) -> Any:
    """A column as one Arrow array, on the host; missing values of any kind are its nulls.

    ``TypeError`` where ``frame`` is none, or its rows are of several kinds; ``ValueError`` where it
    has no such column, or one of Python integers that do not fit in int64.
    """
    import pyarrow as pa  # here, because importing it takes longer than all else together

    column = column_of(frame, name)
    if is_cudf(frame):
        array = cudf_calls.to_arrow(column)
    else:
        try:
            array = pa.array(column, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise TypeError(f"column {name!r}: expected rows of one kind: {error}") from error
        except OverflowError as error:
            raise ValueError(f"column {name!r}: expected values that fit in int64") from error
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not isinstance(array, pa.ChunkedArray):
        return array
    if pa.types.is_string(array.type):
        array = array.cast(pa.large_string())  # one piece of the other type ends at 2 GiB
    return array.combine_chunks()


def check_no_nulls(name: str, array: Any) -> None:
    """``ValueError`` naming the first null row of an Arrow ``array``."""
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{name}: expected no nulls, got {array.null_count}, first in row {row}")


def _lengths_and_values(frame: Any, name: str, on_device: bool) -> tuple[Int64, NDArray[Any]]:
    """Of a column of vectors: :func:`read_lists`, and the same of texts."""
    import pyarrow as pa

    if on_device and cudf_calls.has_lists(column_of(frame, name)):
        return read_lists(frame, name, on_device=True)
    array = read_arrow(frame, name)
    if not pa.types.is_string(array.type) and not pa.types.is_large_string(array.type):
        return _lists_of_arrow(name, array)
    check_no_nulls(f"column {name!r}", array)
    return parse_vectors(f"column {name!r}", array)


def _check_lengths(name: str, lengths: Int64, dim: int | None) -> None:
    if not len(lengths):
        return
    xp = array_module(lengths)
    width, told = (int(lengths[0]), "as in row 0") if dim is None else (dim, "the index's dim")
    wrong = (lengths != width) | (lengths <= 0)
    if not wrong.any():
        return
    row = int(xp.flatnonzero(wrong)[0])
    got = int(lengths[row])
    nulls = lengths < 0
    if got < 0:
        raise ValueError(f"{name}: expected no nulls, got {int(nulls.sum())}, first in row {row}")
    expected = f"{width} values, {told}" if width else "at least one value"
    raise ValueError(f"{name}: expected {expected}; got {got} in row {row}")


def _read_wide(frame: Any, names: list[str], dim: int | None, on_device: bool) -> Float32:
    """Columns of numbers side by side; nulls become NaN, which has no place in a vector."""
    if not names:
        raise ValueError("vectors: expected at least one column, got none")
    for name in names:
        dtype = column_of(frame, name).dtype
        if not str(dtype).lower().startswith(("int", "uint", "float", "double")):
            raise TypeError(f"column {name!r}: expected numbers, got {dtype}")
    wide = frame[names]
    if is_cudf(frame):
        matrix = cudf_calls.matrix_of(wide, on_device=on_device)
    else:
        with np.errstate(over="ignore"):
            matrix = wide.to_numpy(np.float32, na_value=np.nan)
    return as_vectors(f"columns {names[0]!r} to {names[-1]!r}", matrix, dim)


def _lists_of_arrow(name: str, array: Any) -> tuple[Int64, NDArray[Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    # A column that never held a list may have any type.
    if pa.types.is_null(array.type) or 0 < array.null_count == len(array):
        return np.full(len(array), -1, np.int64), np.empty(0, np.int64)
    if not _is_list_of_numbers(array.type):
        raise TypeError(f"column {name!r}: expected lists of numbers, got {array.type}")
    lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    lengths = lengths.astype(np.int64)
    values = array.flatten()
    if values.null_count and not pa.types.is_floating(values.type):
        is_null = values.is_null().to_numpy(zero_copy_only=False)
        _refuse_nulls_inside(name, lengths, is_null, values.null_count)
    return lengths, values.to_numpy(zero_copy_only=False)


def _lists_on_device(name: str, column: Any) -> tuple[Int64, NDArray[Any]]:
    if cudf_calls.null_count(column) == len(column):
        lengths = -cudf_calls.where_null(column).astype(np.int64)
        return lengths, array_module(lengths).empty(0, np.int64)
    if not cudf_calls.has_lists(column) or cudf_calls.has_nested_lists(column):
        raise TypeError(f"column {name!r}: expected lists of numbers, got {column.dtype}")
    lengths, values = cudf_calls.list_lengths(column), cudf_calls.list_values(column)
    if not len(values):
        return lengths, array_module(lengths).empty(0, np.int64)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"column {name!r}: expected lists of numbers, got {column.dtype}")
    n_nulls = cudf_calls.null_count(values)
    if n_nulls and values.dtype.kind == "f":
        values = cudf_calls.nulls_to_nan(values)
    elif n_nulls:
        _refuse_nulls_inside(name, lengths, cudf_calls.where_null(values), n_nulls)
    return lengths, cudf_calls.values_of(values)


def _refuse_nulls_inside(name: str, lengths: Int64, is_null: Any, n_nulls: int) -> None:
    xp = array_module(lengths)
    first = xp.flatnonzero(is_null)[:1]
    row = int(xp.searchsorted(xp.cumsum(xp.maximum(lengths, 0)), first, side="right")[0])
    raise ValueError(
        f"column {name!r}: expected no nulls inside lists, got {n_nulls}, first in row {row}"
    )


def _is_list_of_numbers(arrow_type: Any) -> bool:
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(arrow_type) for is_kind in kinds):
        return False
    # Lists of nothing alone have a type of their own.
    numbers = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)
    return any(is_kind(arrow_type.value_type) for is_kind in numbers)


def _to_float32(values: NDArray[Any]) -> Float32:
    with np.errstate(over="ignore"):  # infinity has no place in a vector either, and is named there
        return values.astype(np.float32, copy=False)


def _whole_numbers(name: str, values: NDArray[Any]) -> Int64:
    bits = np.finfo(values.dtype).nmant + 1
    wrong = (values != np.floor(values)) | (np.abs(values) >= 2.0**bits)
    if wrong.any():
        raise TypeError(
            f"column {name!r}: expected integers, got {values.dtype} with "
            f"{values[wrong][0].item()}; from 2**{bits} on it loses ids: "
            "read the column as Int64, which has room for nulls"
        )
    return values.astype(np.int64)
