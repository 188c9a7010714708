"""Frames in, frames out: query vectors and id lists from columns, candidates back as columns.

pandas and cuDF take the same path; :func:`_read_lists` and :func:`_list_column` alone know that
they keep list columns differently.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64, as_item_ids, as_vectors
from merlin_poeem.params import positive_int
from merlin_poeem.ragged import Candidates, IdLists
from merlin_poeem.search.searcher import Searcher

Form = Literal["long", "list"]

RESULT_COLUMNS = {"long": ("rank", "item_id", "score"), "list": ("item_id", "score", "count")}


def search_frame(
    searcher: Searcher,
    frame: Any,
    *,
    k: int,
    vectors: str | Sequence[str] = "embedding",
    query_id: str | None = None,
    exclude: str | None = None,
    allow: str | None = None,
    n_probes: int | None = None,
    form: Form = "long",
) -> Any:
    """Search for every row of ``frame``; a frame of the same kind comes back, pandas or cuDF.

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
        List columns of item ids: never returned, or the only ones that may be. A null is an empty
        list.
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
    name, query_ids = _query_ids(frame, query_id, form)
    candidates = searcher.search(
        _vectors(frame, vectors),
        k=k,
        n_probes=n_probes,
        exclude=None if exclude is None else _id_lists(frame, "exclude", exclude),
        allow=None if allow is None else _id_lists(frame, "allow", allow),
    )
    columns = _long_columns if form == "long" else _list_columns
    return module.DataFrame(columns(module, name, query_ids, candidates))


def _long_columns(
    module: ModuleType, name: str, query_ids: Any, candidates: Candidates
) -> dict[str, Any]:
    counts, total = candidates.counts, len(candidates.scores)
    queries = np.repeat(np.arange(len(counts)), counts)
    return {
        name: _plain(query_ids.take(queries)),
        "rank": np.arange(1, total + 1) - np.repeat(candidates.offsets[:-1], counts),
        "item_id": candidates.item_ids,
        "score": candidates.scores,
    }


def _list_columns(
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


def _query_ids(frame: Any, query_id: str | None, form: Form) -> tuple[str, Any]:
    """The name and values (an index or a column) of what identifies the queries."""
    if query_id is not None:
        name, values = query_id, _column(frame, "query_id", query_id)
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


def _column(frame: Any, argument: str, name: str) -> Any:
    if name not in frame.columns:
        raise ValueError(
            f"{argument}: expected a column of the frame, got {name!r}; "
            f"it has {[str(column) for column in frame.columns]}"
        )
    return frame[name]


def _vectors(frame: Any, vectors: str | Sequence[str]) -> Float32:
    if isinstance(vectors, str):
        return _vectors_of_lists(vectors, _column(frame, "vectors", vectors))
    columns = [_column(frame, "vectors", name) for name in vectors]
    if not columns:
        raise ValueError("vectors: expected at least one column, got none")
    for name, column in zip(vectors, columns, strict=True):
        if str(column.dtype) != "float32":
            raise TypeError(
                f"column {name!r}: expected float32, got {column.dtype}; "
                "cast with astype('float32')"
            )
    matrix = frame[list(vectors)].to_numpy()
    return as_vectors(f"columns {vectors[0]!r} to {vectors[-1]!r}", matrix)


def _vectors_of_lists(name: str, column: Any) -> Float32:
    lengths, values = _read_lists(name, column)
    wrong = lengths != (lengths[0] if len(lengths) else 0)
    if len(lengths) and (lengths[0] <= 0 or wrong.any()):
        row = 0 if lengths[0] <= 0 else int(np.argmax(wrong))
        got = "a null" if lengths[row] < 0 else f"{lengths[row]} values"
        expected = f"{lengths[0]} values, as in row 0" if lengths[0] > 0 else "a vector"
        raise ValueError(f"column {name!r}: expected {expected}; got {got} in row {row}")
    if _lacks_dtype(column):
        values = values.astype(np.float32)
    return as_vectors(f"column {name!r}", values.reshape(len(lengths), -1))


def _lacks_dtype(column: Any) -> bool:
    """Whether the column holds Python lists of numbers, which have no dtype."""
    return column.dtype == object and all(type(row) in (list, tuple) for row in column)


def _id_lists(frame: Any, argument: str, name: str) -> IdLists:
    lengths, values = _read_lists(name, _column(frame, argument, name))
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths, 0))])
    return IdLists(offsets, as_item_ids(f"column {name!r}", values))


def _read_lists(name: str, column: Any) -> tuple[Int64, NDArray[Any]]:
    """A list column as the length of each row, −1 for a null, and the values of all rows."""
    if type(column).__module__.startswith("cudf"):
        lengths = column.list.len().fillna(-1).to_numpy()
        return lengths.astype(np.int64), column.list.leaves.to_numpy()
    import pyarrow as pa  # here, because importing it takes longer than all else together
    import pyarrow.compute as pc

    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(
            f"column {name!r}: expected lists of one kind of number: {error}"
        ) from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, np.int64), np.empty(0, np.int64)
    if not _is_list(array.type):
        raise TypeError(f"column {name!r}: expected lists, got {array.type}")
    lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    values = array.flatten()
    # In a list of floats a null becomes NaN, which the check of the vectors names by its row.
    if values.null_count and not pa.types.is_floating(values.type):
        raise ValueError(
            f"column {name!r}: expected no nulls inside lists, got {values.null_count}"
        )
    return lengths.astype(np.int64), values.to_numpy(zero_copy_only=False)


def _is_list(arrow_type: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(arrow_type) for test in tests)


def _list_column(module: ModuleType, offsets: Int64, values: NDArray[Any]) -> Any:
    """One list per row: in pandas an object column of arrays, in cuDF its own list column."""
    if module.__name__ == "cudf":
        import pyarrow as pa

        return module.Series.from_arrow(
            pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(values))
        )
    bounds = offsets.tolist()
    lists = [values[i:j] for i, j in pairwise(bounds)]
    return module.Series(lists, dtype=object)
