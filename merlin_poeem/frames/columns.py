"""The one reader of a frame's columns: vectors, ids and lists, as arrays.

pandas columns, and cuDF columns for what runs on the host, are read through Arrow. A cuDF column
for a searcher on the device stays there: CuPy arrays, which share the column's memory where that is
possible. Errors name the column, and the first wrong row, counted from 0.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import (
    Float32,
    Int64,
    array_module,
    as_item_ids,
    as_vectors,
    type_name,
)
from merlin_poeem.frames import cudf_calls
from merlin_poeem.frames.cudf_calls import is_cudf
from merlin_poeem.frames.json_vectors import parse_vectors
from merlin_poeem.frames.refused_columns import (
    WITHOUT_NULLS,
    first_misfit,
    misfit,
    row_of_first,
    way_to_ids,
    way_to_lists,
)
from merlin_poeem.search.ragged import IdLists, offsets_of

_NUMBERS = re.compile(r"(u?int\d+|float\d*|double)\b", re.IGNORECASE)
"""The dtypes of numbers by their names: NumPy's, those with nulls, and Arrow's."""

_ARROW_OR_DASK = {
    "polars": ": convert it with .to_pandas()",
    "pyarrow": ": convert it with .to_pandas()",
    "dask": ": gather it with .compute(), or search it in parts with search_ddf",
}


def library_of(frame: Any) -> ModuleType:
    """pandas or cudf, which was imported to make ``frame``; ``TypeError`` where it is no frame."""
    name = type(frame).__module__.partition(".")[0]
    if name not in ("pandas", "cudf") or not hasattr(frame, "columns"):
        remedy = _ARROW_OR_DASK.get(name.partition("_")[0], "")  # dask_cudf, dask_expr
        raise TypeError(
            f"frame: expected a pandas or cuDF DataFrame, got {type_name(frame)}{remedy}"
        )
    return sys.modules[name]


def column_of(frame: Any, name: str) -> Any:
    """The column ``name``.

    ``TypeError`` for no frame or no name, ``ValueError`` unless it is there once, or where columns
    have names of several levels.
    """
    library_of(frame)
    if not isinstance(name, Hashable):
        raise TypeError(f"column: expected its name, got {type_name(name)}")
    levels = getattr(frame.columns, "nlevels", 1)
    if levels > 1:
        raise ValueError(
            f"column {name!r}: expected a frame with one level of column names, got {levels}: join "
            "them, such as with frame.columns = frame.columns.map('_'.join)"
        )
    if name not in frame.columns:
        names = [str(column) for column in frame.columns]
        raise ValueError(f"column {name!r}: expected it in the frame, got {names}")
    column = frame[name]
    if hasattr(column, "columns"):
        raise ValueError(f"column {name!r}: expected it once in the frame, got {column.shape[1]}")
    return column


def columns_of_vectors(vectors: Any) -> list[Any]:
    """The names of the columns that ``vectors`` names, one or several; ``TypeError`` for none."""
    if isinstance(vectors, str):
        return [vectors]
    if not isinstance(vectors, Iterable):
        raise TypeError(
            f"vectors: expected a column's name or a list of names, got {vectors!r} "
            f"({type_name(vectors)}): where the column has a number for a name, rename it, such as "
            "with frame.rename(columns=str)"
        )
    return list(vectors)


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
        return _read_wide(frame, columns_of_vectors(vectors), dim, on_device)
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
    return _as_ids(name, read_numbers(frame, name))


def read_texts(frame: Any, name: str) -> list[str]:
    """A column of texts, on the host; ``TypeError`` on any other, ``ValueError`` on a null."""
    array = read_arrow(frame, name)
    check_no_nulls(f"column {name!r}", array)
    if len(array) and not is_text(array.type):
        raise TypeError(f"column {name!r}: expected texts, got {array.type}")
    texts: list[str] = array.to_pylist()
    return texts


def read_text_lists(frame: Any, name: str) -> tuple[Int64, list[str]]:
    """The length (n,) of each list of texts in a column, 0 for a null, and the texts of all rows.

    On the host. ``TypeError`` on anything but lists of texts; ``ValueError`` on a null in one.
    """
    import pyarrow as pa

    array = read_arrow(frame, name)
    if pa.types.is_null(array.type) or 0 < array.null_count == len(array):
        return np.zeros(len(array), np.int64), []
    is_list = _is_list(array.type)
    if not is_list or not (
        is_text(array.type.value_type) or pa.types.is_null(array.type.value_type)
    ):
        raise TypeError(
            f"column {name!r}: expected lists of texts, the item keys of the index, got "
            f"{array.type}"
        )
    lengths, values = _lengths_of(array), array.flatten()
    if values.null_count:
        is_null = values.is_null().to_numpy(zero_copy_only=False)
        _refuse_nulls_inside(name, lengths, is_null, values.null_count)
    return np.maximum(lengths, 0), values.to_pylist()


def is_text(arrow_type: Any) -> bool:
    """Whether it is one of Arrow's types of text."""
    import pyarrow as pa

    kinds = (pa.types.is_string, pa.types.is_large_string)
    views = (getattr(pa.types, "is_string_view", None),)
    return any(is_kind is not None and is_kind(arrow_type) for is_kind in (*kinds, *views))


def read_known_ids(frame: Any, name: str) -> tuple[Int64 | None, NDArray[np.bool_], Int64]:
    """The ids of a column of ids or of lists of ids, some of them null, on the host.

    Whole floats are taken too, which is what pandas makes of integers with a null among them.

    Returns
    -------
    lengths
        (n,) int64, the length of each list, 0 for a null; None where each row is one id.
    known
        (n_places,) bool, which places hold an id: places are rows, or those in all the lists.
    item_ids
        (n_known,) int64, those ids.

    Raises
    ------
    TypeError
        Anything else than integers or lists of them.
    ValueError
        A missing column, or ids beyond int64.
    """
    array, lengths = read_arrow(frame, name), None
    _check_plain(name, array)
    if _is_list(array.type):
        lengths, array = np.maximum(_lengths_of(array), 0), array.flatten()
    known = ~array.is_null().to_numpy(zero_copy_only=False)
    values = array.drop_null().to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        is_number = ~np.isnan(values)  # an array in a list column keeps its NaN
        known[known], values = is_number, _whole_numbers(name, values[is_number])
    return lengths, known, as_item_ids(f"column {name!r}", values)


def read_known_texts(frame: Any, name: str) -> tuple[Int64 | None, NDArray[np.bool_], list[str]]:
    """:func:`read_known_ids` of texts or lists of texts."""
    import pyarrow as pa

    array, lengths = read_arrow(frame, name), None
    if _is_list(array.type):
        lengths, array = np.maximum(_lengths_of(array), 0), array.flatten()
    if not is_text(array.type) and not pa.types.is_null(array.type):
        raise TypeError(
            f"column {name!r}: expected texts, the item keys of the index, got {array.type}"
        )
    known = ~array.is_null().to_numpy(zero_copy_only=False)
    return lengths, known, array.drop_null().to_pylist()


def read_numbers(frame: Any, name: str) -> NDArray[Any]:
    """A column with one number a row, (n,) of its own dtype, on the host; a null is an error."""
    array = read_arrow(frame, name)
    _check_plain(name, array)
    check_no_nulls(f"column {name!r}", array)
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers


def read_id_lists(frame: Any, name: str, *, on_device: bool = False) -> IdLists:
    """The list of ids of each row; a null is an empty list. Errors as of :func:`read_lists`."""
    lengths, values = read_lists(frame, name, on_device=on_device)
    offsets = offsets_of(array_module(lengths).maximum(lengths, 0))
    return IdLists(offsets, _as_ids(name, values, lengths))


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
        except OverflowError as error:
            raise ValueError(
                f"column {name!r}: expected values that fit in int64, first not so in row "
                f"{first_misfit(column)}"
            ) from error
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise TypeError(f"column {name!r}: {misfit(column, error)}") from error
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
        raise ValueError(
            f"{name}: expected no nulls, got {array.null_count}, first in row {row}{WITHOUT_NULLS}"
        )


def _check_plain(name: str, array: Any) -> None:
    """``TypeError`` where an Arrow ``array`` is of what only looks like numbers, as periods do."""
    import pyarrow as pa

    if isinstance(array.type, pa.BaseExtensionType):
        raise TypeError(f"column {name!r}: expected numbers, got {array.type}")


def _lengths_and_values(frame: Any, name: str, on_device: bool) -> tuple[Int64, NDArray[Any]]:
    """Of a column of vectors: :func:`read_lists`, and the same of texts."""
    if on_device and cudf_calls.has_lists(column_of(frame, name)):
        return read_lists(frame, name, on_device=True)
    array = read_arrow(frame, name)
    if not is_text(array.type):
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
        raise ValueError(
            f"{name}: expected no nulls, got {int(nulls.sum())}, first in row {row}{WITHOUT_NULLS}"
        )
    expected = f"{width} values, {told}" if width else "at least one value"
    raise ValueError(f"{name}: expected {expected}; got {got} in row {row}")


def _read_wide(frame: Any, names: list[str], dim: int | None, on_device: bool) -> Float32:
    """Columns of numbers side by side; nulls become NaN, which has no place in a vector."""
    if not names:
        raise ValueError("vectors: expected at least one column, got none")
    for name in names:
        dtype = column_of(frame, name).dtype
        if not _NUMBERS.match(str(dtype)):
            raise TypeError(
                f"column {name!r}: expected numbers, got {dtype}: make them with to_numeric"
            )
    wide = frame[names]
    if is_cudf(frame):
        matrix = cudf_calls.matrix_of(wide, on_device=on_device)
    elif all(isinstance(dtype, np.dtype) for dtype in wide.dtypes):
        with np.errstate(over="ignore"):
            matrix = wide.to_numpy(np.float32)
    else:  # by Arrow, as pandas 1.5 makes no numbers of Arrow's nulls
        columns = (read_arrow(frame, name).to_numpy(zero_copy_only=False) for name in names)
        matrix = np.stack([_to_float32(column) for column in columns], axis=1)
    return as_vectors(f"columns {names[0]!r} to {names[-1]!r}", matrix, dim)


def _lists_of_arrow(name: str, array: Any) -> tuple[Int64, NDArray[Any]]:
    import pyarrow as pa

    # A column that never held a list may have any type.
    if pa.types.is_null(array.type) or 0 < array.null_count == len(array):
        return np.full(len(array), -1, np.int64), np.empty(0, np.int64)
    if not _is_list_of_numbers(array.type):
        raise TypeError(
            f"column {name!r}: expected lists of numbers, got {array.type}"
            f"{way_to_lists(name, array.type)}"
        )
    lengths, values = _lengths_of(array), array.flatten()
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
    raise ValueError(
        f"column {name!r}: expected no nulls inside lists, got {n_nulls}, first in row "
        f"{row_of_first(is_null, lengths)}: take them out of the lists"
    )


def _lengths_of(array: Any) -> Int64:
    """The length of each list of an Arrow array, −1 for a null."""
    import pyarrow.compute as pc

    counts = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    lengths: Int64 = counts.astype(np.int64)
    return lengths


def _is_list(arrow_type: Any) -> bool:
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(arrow_type) for is_kind in kinds)


def _is_list_of_numbers(arrow_type: Any) -> bool:
    import pyarrow as pa

    if not _is_list(arrow_type):
        return False
    # Lists of nothing alone have a type of their own.
    numbers = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)
    return any(is_kind(arrow_type.value_type) for is_kind in numbers)


def _as_ids(name: str, values: NDArray[Any], lengths: Int64 | None = None) -> Int64:
    """:func:`as_item_ids` of a column, or of its lists of these ``lengths``; errors say what helps.

    ``lengths`` may have −1 for a null.
    """
    try:
        return as_item_ids(f"column {name!r}", values)
    except TypeError as error:
        raise TypeError(f"{error}: {way_to_ids(name, values, lengths)}") from error
    except ValueError as error:
        row = row_of_first(values > np.iinfo(np.int64).max, lengths)
        raise ValueError(f"{error}, first in row {row}") from error


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
