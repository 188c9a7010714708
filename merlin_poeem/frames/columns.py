"""A frame's columns of vectors and ids as arrays, and back: JSON strings and lists alike.

``"[0.1, 0.2]"`` in a CSV file is how vectors are often handed on, where a search wants float32.
pandas and cuDF columns are read through Arrow, on the host.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64, as_item_ids, as_vectors

CHUNK_ROWS = 1 << 14
CHUNK_BYTES = 1 << 24
SHOWN_CHARACTERS = 60


def read_vectors(frame: Any, column: str) -> Float32:
    """The vectors in ``column`` of a pandas or cuDF ``frame``: (n, dim) float32.

    A row is a JSON array of numbers, or a list or array of numbers. Values become the nearest
    float32, also from float64: JSON has no narrower type, and most files were float32 before.

    Raises
    ------
    TypeError
        Not a frame, or a column of anything else.
    ValueError
        No such column, no rows, or a row that is null, no JSON array of numbers, not finite in
        float32, or of another width than row 0: the first such row is named, counted from 0.
    """
    import pyarrow as pa  # here, because importing it takes longer than all else together

    name = f"column {column!r}"
    array = read_column(frame, column)
    if not len(array):
        raise ValueError(f"{name}: expected at least one row, got none")
    check_no_nulls(name, array)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        chunks = list(_parse(name, array))
    elif _is_list_of_numbers(array.type):
        chunks = [_lengths_and_values(array)]
    else:
        raise TypeError(f"{name}: expected JSON strings or lists of numbers, got {array.type}")
    lengths, values = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    dim = int(lengths[0])
    wrong = np.flatnonzero((lengths != dim) | (lengths == 0))
    if len(wrong):
        expected = f"{dim} values, as in row 0" if dim else "at least one value"
        row = int(wrong[0])
        raise ValueError(f"{name}: expected {expected}; got {int(lengths[row])} in row {row}")
    return as_vectors(name, values.reshape(len(lengths), dim))


def read_ids(frame: Any, column: str) -> Int64:
    """The ids in ``column``, (n,) int64.

    Raises ``TypeError`` where they are no integers, ``ValueError`` on a missing column, a null
    (naming its row), or ids that do not fit in int64.
    """
    name = f"column {column!r}"
    array = read_column(frame, column)
    check_no_nulls(name, array)
    return as_item_ids(name, array.to_numpy(zero_copy_only=False))


def with_vectors(frame: Any, column: str = "features", into: str | None = None) -> Any:
    """``frame`` with the vectors of ``column`` as a float32 list column ``into``.

    That is what :func:`~merlin_poeem.search_frame` takes. ``into`` None replaces
    ``column``. A frame of the same kind comes back, pandas or cuDF; the one given stays as it is.

    Raises ``TypeError`` or ``ValueError`` as :func:`read_vectors`.
    """
    return frame.assign(**{into or column: list_column(frame, read_vectors(frame, column))})


def list_column(frame: Any, matrix: NDArray[Any]) -> Any:
    """The rows of (n, width) ``matrix`` as a list column, labelled as ``frame``'s n rows are.

    ``ValueError`` where a cuDF column would get more values than the 2**31 that it can hold.
    """
    module = sys.modules[_library(frame)]
    if module.__name__ == "pandas":
        return module.Series(list(matrix), index=frame.index, dtype=object)
    import pyarrow as pa

    # cuDF's lists have int32 offsets: Arrow refuses more values, where NumPy would wrap around.
    offsets = pa.array(np.arange(len(matrix) + 1) * matrix.shape[1], pa.int32())
    series = module.Series.from_arrow(pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel())))
    series.index = frame.index
    return series


def read_column(frame: Any, column: str) -> Any:
    """A column as one Arrow array, on the host; missing values of any kind are its nulls.

    ``TypeError`` where ``frame`` is none, or its rows are of several kinds; ``ValueError`` where it
    has no such column, or one of Python integers that do not fit in int64.
    """
    import pyarrow as pa

    library = _library(frame)
    if column not in frame.columns:
        names = [str(name) for name in frame.columns]
        raise ValueError(f"column {column!r}: expected it in the frame, got {names}")
    if library == "cudf":
        array = frame[column].to_arrow()
    else:
        try:
            array = pa.array(frame[column], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise TypeError(f"column {column!r}: expected rows of one kind: {error}") from error
        except OverflowError as error:
            raise ValueError(f"column {column!r}: expected values that fit in int64") from error
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


def _library(frame: Any) -> str:
    name = type(frame).__module__.partition(".")[0]
    if name not in ("pandas", "cudf") or not hasattr(frame, "columns"):
        raise TypeError(f"frame: expected a pandas or cuDF DataFrame, got {type(frame).__name__}")
    return name


def _is_list_of_numbers(arrow_type: Any) -> bool:
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(arrow_type) for is_kind in kinds):
        return False
    value_type = arrow_type.value_type
    return bool(pa.types.is_floating(value_type) or pa.types.is_integer(value_type))


def _lengths_and_values(lists: Any) -> tuple[Int64, Float32]:
    """An Arrow list array without null rows; a null within a list becomes NaN."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # infinity has no place in a vector either, and is named there
        return lengths.astype(np.int64), values.astype(np.float32)


def _parse(name: str, texts: Any) -> Iterator[tuple[Int64, Float32]]:
    """:func:`_lengths_and_values` of an Arrow array of JSON strings, in chunks."""
    n_rows = min(CHUNK_ROWS, max(1, len(texts) * CHUNK_BYTES // texts.nbytes))
    for start in range(0, len(texts), n_rows):
        chunk = texts.slice(start, n_rows).to_pylist()
        lists = _parse_chunk(chunk)
        if lists is None:
            row = next(i for i, text in enumerate(chunk) if _parse_chunk([text]) is None)
            shown = chunk[row][:SHOWN_CHARACTERS]
            raise ValueError(
                f"{name}: expected a JSON array of numbers, got {shown!r} in row {start + row}"
            )
        yield _lengths_and_values(lists)


def _parse_chunk(texts: list[str]) -> Any:
    """JSON arrays as an Arrow list array of float64; None where a text is anything else.

    Arrow reads lines of objects, several times faster than :mod:`json` and in less memory. A text
    that closes its object too early adds a row, and none can take one away.
    """
    import pyarrow as pa
    import pyarrow.json

    lines = ('{"v":' + '}\n{"v":'.join(texts) + "}").encode()
    read_options = pyarrow.json.ReadOptions(block_size=len(lines) + 1)
    parse_options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([("v", pa.list_(pa.float64()))]),
        unexpected_field_behavior="error",
    )
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(lines), read_options=read_options, parse_options=parse_options
        )
    except pa.ArrowInvalid:
        return None
    lists = pa.concat_arrays(table.column("v").chunks)
    return None if len(lists) != len(texts) or lists.null_count else lists
