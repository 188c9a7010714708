"""Frames in, frames out: query vectors and id lists from columns, candidates back as columns.

pandas and cuDF take the same path; :func:`_matrix`, :func:`read_lists` and :func:`_list_column`
alone know that they keep columns differently. What a searcher on the device gets from a cuDF frame,
and gives for it, stays there: CuPy arrays, which share the columns' memory where that is possible.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64, array_module, as_item_ids, as_vectors
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.search.item_set import ItemFilter, ItemSet
from merlin_poeem.search.ragged import Candidates, IdLists, offsets_of
from merlin_poeem.search.searcher import Searcher

Form = Literal["long", "list"]

MAX_LIST_VALUES = 2**31 - 1
"""cuDF's lists have int32 offsets."""

RESULT_COLUMNS = {"long": ("rank", "item_id", "score"), "list": ("item_id", "score", "count")}


def search_frame(
    searcher: Searcher,
    frame: Any,
    *,
    k: int,
    vectors: str | Sequence[str] = "embedding",
    query_id: str | None = None,
    exclude: str | ItemSet | None = None,
    allow: str | ItemSet | None = None,
    n_probes: int | None = None,
    form: Form = "long",
) -> Any:
    """Search for every row of ``frame``; a frame of the same kind comes back, pandas or cuDF.

    Nothing of a cuDF frame is copied through the host where the searcher is ``on_device``.

    Parameters
    ----------
    k, n_probes
        As in :meth:`Searcher.search <merlin_poeem.search.searcher.Searcher.search>`.
    vectors
        A list column of float32 vectors, or the names of ``dim`` float32 columns. Python lists of
        floats are taken as float32: they have no dtype that could be lost.
    query_id
        The column that names the queries in the result; None takes the frame's index, under its own
        name or else ``query_id``.
    exclude, allow
        Items never returned, or the only ones that may be: a list column of item ids, where a null
        is an empty list, or an :class:`~merlin_poeem.ItemSet` for all rows.
    form
        ``"long"``: a row per candidate, best first: query id, ``rank`` (from 1), ``item_id``,
        ``score``. ``"list"``: a row per query: query id, ``item_id`` and ``score`` as lists, and
        ``count``, their length. Fewer than ``k`` are never padded; in the long form a query without
        candidates has no row.

    Raises
    ------
    TypeError
        Not a frame, vectors not float32, or ids not integers.
    ValueError
        A missing column, a null or ragged vector (naming the first such row), a ``query_id`` that
        bears the name of a result column, or whatever the searcher refuses.
    """
    module = _module_of(frame)
    k = positive_int("k", k)
    if form not in RESULT_COLUMNS:
        raise ValueError(f"form: expected long or list, got {form!r}")
    name, query_ids = query_ids_of(frame, query_id, form)
    on_device = searcher.on_device and _is_cudf(frame)
    candidates = searcher.search(
        vectors_of(frame, vectors, searcher.index.dim, on_device),
        k=k,
        n_probes=n_probes,
        exclude=item_filter(frame, "exclude", exclude, on_device),
        allow=item_filter(frame, "allow", allow, on_device),
    )
    columns = long_columns if form == "long" else list_columns
    return module.DataFrame(columns(module, name, query_ids, candidates))


def long_columns(
    module: ModuleType, name: str, query_ids: Any, candidates: Candidates
) -> dict[str, Any]:
    xp, queries = array_module(candidates.counts), candidates.query_numbers
    return {
        name: _plain(query_ids.take(queries)),
        "rank": xp.arange(1, len(queries) + 1) - candidates.offsets[queries],
        "item_id": candidates.item_ids,
        "score": candidates.scores,
    }


def list_columns(
    module: ModuleType, name: str, query_ids: Any, candidates: Candidates
) -> dict[str, Any]:
    return {
        name: _plain(query_ids),
        "item_id": _list_column(module, candidates.offsets, candidates.item_ids),
        "score": _list_column(module, candidates.offsets, candidates.scores),
        "count": candidates.counts,
    }


def _module_of(frame: Any) -> ModuleType:
    """The library of ``frame``, pandas or cudf, which was imported to make it."""
    name = type(frame).__module__.partition(".")[0]
    if name not in ("pandas", "cudf") or not hasattr(frame, "columns"):
        raise TypeError(f"frame: expected a pandas or cuDF DataFrame, got {type(frame).__name__}")
    return sys.modules[name]


def query_ids_of(frame: Any, query_id: str | None, form: Form) -> tuple[str, Any]:
    """The name and values (an index or a column) of what identifies the queries."""
    if query_id is not None:
        name, values = query_id, column_of(frame, "query_id", query_id)
    else:
        name, values = frame.index.name or "query_id", frame.index
        if getattr(values, "nlevels", 1) > 1:
            raise ValueError(
                "query_id: expected a column, as the frame's index has levels; got None"
            )
    if name in RESULT_COLUMNS[form]:
        raise ValueError(
            f"query_id: expected another name than the result's columns "
            f"{', '.join(RESULT_COLUMNS[form])}; got {name!r}: rename it, "
            f"such as to {f'query_{name}'!r}"
        )
    return name, values


def _plain(values: Any) -> Any:
    """An index or column without labels of its own, so that a new frame does not align by them."""
    return values.reset_index(drop=True) if hasattr(values, "reset_index") else values


def column_of(frame: Any, argument: str, name: str) -> Any:
    if name not in frame.columns:
        raise ValueError(
            f"{argument}: expected a column of the frame, got {name!r}; "
            f"it has {[str(column) for column in frame.columns]}"
        )
    return frame[name]


def _is_cudf(frame_or_column: Any) -> bool:
    return type(frame_or_column).__module__.partition(".")[0] == "cudf"


def vectors_of(frame: Any, vectors: str | Sequence[str], dim: int, on_device: bool) -> Float32:
    if isinstance(vectors, str):
        return _vectors_of_lists(vectors, column_of(frame, "vectors", vectors), dim, on_device)
    columns = [column_of(frame, "vectors", name) for name in vectors]
    if not columns:
        raise ValueError("vectors: expected at least one column, got none")
    for name, column in zip(vectors, columns, strict=True):
        if str(column.dtype) != "float32":
            raise TypeError(
                f"column {name!r}: expected float32, got {column.dtype}; "
                "cast with astype('float32')"
            )
    matrix = _matrix(frame[list(vectors)], on_device)
    return as_vectors(f"columns {vectors[0]!r} to {vectors[-1]!r}", matrix)


def _matrix(frame: Any, on_device: bool) -> Any:
    """The columns, all float32, side by side; nulls become NaN, which has no place in a vector."""
    if _is_cudf(frame) and any(frame[name].null_count for name in frame.columns):
        frame = frame.fillna(np.nan)
    return frame.to_cupy() if on_device else frame.to_numpy()


def _vectors_of_lists(name: str, column: Any, dim: int, on_device: bool) -> Float32:
    lengths, values = read_lists(name, column, on_device)
    xp = array_module(lengths)
    if not len(lengths):
        empty: Float32 = xp.empty((0, dim), np.float32)
        return empty
    first, wrong = int(lengths[0]), lengths != lengths[0]
    if first <= 0 or wrong.any():
        row = 0 if first <= 0 else int(xp.flatnonzero(wrong)[0])
        got = "a null" if lengths[row] < 0 else f"{int(lengths[row])} values"
        expected = f"{first} values, as in row 0" if first > 0 else "a vector"
        raise ValueError(f"column {name!r}: expected {expected}; got {got} in row {row}")
    if _lacks_dtype(column):
        values = values.astype(np.float32)
    return as_vectors(f"column {name!r}", values.reshape(len(lengths), -1))


def _lacks_dtype(column: Any) -> bool:
    """Whether the column holds Python lists of numbers, which have no dtype."""
    return column.dtype == object and all(type(row) in (list, tuple) for row in column)


def item_filter(
    frame: Any, argument: str, given: str | ItemSet | None, on_device: bool
) -> ItemFilter | None:
    if given is None or isinstance(given, ItemSet):
        return given
    lengths, values = read_lists(given, column_of(frame, argument, given), on_device)
    offsets = offsets_of(array_module(lengths).maximum(lengths, 0))
    return IdLists(offsets, as_item_ids(f"column {given!r}", values))


def read_lists(name: str, column: Any, on_device: bool) -> tuple[Int64, NDArray[Any]]:
    """A list column as the length of each row, −1 for a null, and the values of all rows."""
    return _read_cudf(name, column, on_device) if _is_cudf(column) else _read_pandas(name, column)


def _read_cudf(name: str, column: Any, on_device: bool) -> tuple[Int64, NDArray[Any]]:
    if column.null_count == len(column):
        # cuDF has no list type for a column that never held a list.
        lengths = -_array(column.isnull(), on_device).astype(np.int64)
        return lengths, array_module(lengths).empty(0, np.int64)
    try:
        lists = column.list
    except AttributeError as error:
        raise TypeError(f"column {name!r}: expected lists, got {column.dtype}") from error
    lengths = _array(lists.len().fillna(-1), on_device).astype(np.int64)
    leaves = lists.leaves
    if not len(leaves):
        return lengths, array_module(lengths).empty(0, np.int64)
    if leaves.dtype.kind not in "biuf":
        raise TypeError(f"column {name!r}: expected lists of numbers, got {column.dtype}")
    if leaves.null_count and leaves.dtype.kind == "f":
        leaves = leaves.fillna(np.nan)
    _check_no_nulls(name, leaves.null_count)
    return lengths, _array(leaves, on_device)


def _array(column: Any, on_device: bool) -> Any:
    """The values of a cuDF column of numbers, none of them null, in CuPy or in NumPy."""
    return column.values if on_device else column.to_numpy()


def _check_no_nulls(name: str, n_nulls: int) -> None:
    # In a list of floats a null becomes NaN, which the check of the vectors names by its row.
    if n_nulls:
        raise ValueError(f"column {name!r}: expected no nulls inside lists, got {n_nulls}")


def _read_pandas(name: str, column: Any) -> tuple[Int64, NDArray[Any]]:
    import pyarrow as pa  # here, because importing it takes longer than all else together
    import pyarrow.compute as pc

    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(
            f"column {name!r}: expected lists of one kind of number: {error}"
        ) from error
    except OverflowError as error:
        raise ValueError(f"column {name!r}: expected values that fit in int64") from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, np.int64), np.empty(0, np.int64)
    if not _is_list(array.type):
        raise TypeError(f"column {name!r}: expected lists, got {array.type}")
    lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    values = array.flatten()
    if not pa.types.is_floating(values.type):
        _check_no_nulls(name, values.null_count)
    return lengths.astype(np.int64), values.to_numpy(zero_copy_only=False)


def _is_list(arrow_type: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(arrow_type) for test in tests)


def _list_column(module: ModuleType, offsets: Int64, values: NDArray[Any]) -> Any:
    """One list per row: in pandas an object column of arrays, in cuDF its own list column."""
    if module.__name__ == "cudf":
        return _cudf_lists(module, offsets, values)
    bounds = offsets.tolist()
    lists = [values[i:j] for i, j in pairwise(bounds)]
    return module.Series(lists, dtype=object)


def _cudf_lists(cudf: ModuleType, offsets: Int64, values: NDArray[Any]) -> Any:
    if int(offsets[-1]) > MAX_LIST_VALUES:
        raise ValueError(
            f"form: expected at most {MAX_LIST_VALUES} candidates in a list column of cuDF, got "
            f"{int(offsets[-1])}: search in parts, or in the long form"
        )
    offsets_32 = offsets.astype(np.int32)
    if array_module(values) is np:
        import pyarrow as pa

        return cudf.Series.from_arrow(pa.ListArray.from_arrays(offsets_32, pa.array(values)))
    # cuDF itself makes no list column of device arrays (NVIDIA/cudf issue 11130). pylibcudf, on
    # which it stands, does: as in Arrow, the column has no data but two children, its offsets,
    # int32, and its values, here the CuPy arrays' own memory.
    import pylibcudf as plc

    children = [plc.Column.from_cuda_array_interface(array) for array in (offsets_32, values)]
    lists = plc.Column(plc.DataType(plc.TypeId.LIST), len(offsets) - 1, None, None, 0, 0, children)
    return cudf.Series.from_pylibcudf(lists)
