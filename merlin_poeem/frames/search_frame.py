"""Frames in, frames out: query vectors and id lists from columns, candidates back as columns.

pandas and cuDF take the same path: :mod:`~merlin_poeem.frames.columns` and
:mod:`~merlin_poeem.frames.list_writer` alone know that they keep columns differently. What a
searcher on the device gets from a cuDF frame, and gives for it, stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from merlin_poeem.arrays import type_name
from merlin_poeem.frames.columns import library_of
from merlin_poeem.frames.cudf_calls import is_cudf
from merlin_poeem.frames.portions import search_in_portions
from merlin_poeem.frames.queries import Queries, SearchOptions
from merlin_poeem.frames.results import Form, results_frame
from merlin_poeem.frames.unknown_ids import tell_of_unknown
from merlin_poeem.frames.unvisited import tell_of_unvisited
from merlin_poeem.search.searcher import AnySearcher


def search_frame(
    searcher: AnySearcher,
    frame: Any,
    *,
    k: int,
    vectors: str | Sequence[str] = "embedding",
    query_id: str | None = None,
    exclude: Any = None,
    allow: Any = None,
    n_probes: int | None = None,
    refine: int | None = None,
    form: Form = "long",
    progress: bool = True,
) -> Any:
    """Search for every row of ``frame``; a frame of the same kind comes back, pandas or cuDF.

    Nothing of a cuDF frame is copied through the host where the searcher is ``on_device``.

    Parameters
    ----------
    k, n_probes, refine
        As in :meth:`Searcher.search <merlin_poeem.Searcher.search>`.
    vectors
        A list column of vectors, a column of JSON arrays, or the names of ``dim`` columns of
        numbers. Values become the nearest float32.
    query_id
        The column that names the queries in the result; None takes the frame's index, under its own
        name or else ``query_id``.
    exclude, allow
        Items never returned, or the only ones that may be: the name of a list column of item ids,
        where a null is an empty list; or ids for all rows, as an :class:`~merlin_poeem.ItemSet` or
        any flat collection of integers (a list, set, array, Series …). Where it is empty,
        ``allow`` allows nothing. Of an index with keys they are texts, as its results are.

        Ids that the index does not hold are no error. Where it holds none of many, they are likely
        ids of another kind, such as those before or after Categorify: that is logged, once a
        process.

        Only the ``n_probes`` lists of a query are looked through: few allowed items may be in none
        of them. A query then gets fewer, which is logged, once a process; a higher ``n_probes``
        finds them.
    form
        ``"long"``: a row per candidate, best first: query id, ``rank`` (from 1), ``item_id``,
        ``score``. ``"list"``: a row per query: query id, ``item_id`` and ``score`` as lists, and
        ``count``, their length. Fewer than ``k`` are never padded; in the long form a query without
        candidates has no row.
    progress
        Whether work of more than two seconds on the host shows a bar on stderr.

    Raises
    ------
    TypeError
        Not a frame, vectors that are no numbers, ids that are no integers, or an ``exclude`` or
        ``allow`` that is neither a column's name nor ids.
    ValueError
        A missing column, a null or ragged vector (naming the first such row), a ``query_id`` that
        bears the name of a result column, or whatever the searcher refuses.
    """
    options = SearchOptions(
        k=k,
        vectors=vectors,
        query_id=query_id,
        exclude=exclude,
        allow=allow,
        n_probes=n_probes,
        refine=refine,
        form=form,
    )
    return search_with(searcher, frame, options, progress=progress)


def search_with(
    searcher: AnySearcher, frame: Any, options: SearchOptions, *, progress: bool = False
) -> Any:
    """:func:`search_frame` of options that were put together before."""
    check_searcher(searcher)
    module = library_of(frame)
    on_device = searcher.on_device and is_cudf(frame)
    index = searcher.index
    queries = Queries.read(frame, options, index.dim, on_device=on_device, keys=index.item_keys)
    return found_frame(searcher, module, queries, options, progress=progress)


def check_searcher(searcher: Any) -> None:
    """``TypeError`` where ``searcher`` is none, such as an index."""
    if not hasattr(searcher, "search") or not hasattr(searcher, "index"):
        raise TypeError(
            f"searcher: expected one, as open_searcher(index) opens it, got {type_name(searcher)}"
        )


def found_frame(
    searcher: AnySearcher,
    module: ModuleType,
    queries: Queries,
    options: SearchOptions,
    *,
    progress: bool = False,
) -> Any:
    """What a search for ``queries`` finds, as a frame of ``module``."""
    tell_of_unknown(searcher.index, queries, options)
    found = search_in_portions(searcher, queries, options, progress=progress)
    tell_of_unvisited(searcher, queries, options, found)
    keys = searcher.index.item_keys
    return results_frame(module, options.form, queries.name, queries.ids, found, keys)
