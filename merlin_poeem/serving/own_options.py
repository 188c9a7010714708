"""A search in which each row has its own ``k``, ``n_probes`` and ``refine``."""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.search.ragged import Candidates, IdLists, offsets_of
from merlin_poeem.search.searcher import Searcher

OPTIONS = ("k", "n_probes", "refine")
OF_INDEX = -(2**63)
"""Of ``refine`` where nobody names one; no row may."""


def search_rows(
    searcher: Searcher,
    queries: Float32,
    wanted: Int64,
    exclude: IdLists | None = None,
    allow: IdLists | None = None,
) -> Candidates:
    """Search each of (n, dim) raw ``queries`` with its row of (n, 3) ``wanted``: ``OPTIONS``.

    Rows that want the same go together. Raises what
    :meth:`Searcher.search <merlin_poeem.Searcher.search>` promises.
    """
    filters: dict[str, Any] = {"exclude": exclude, "allow": allow}
    if not len(queries):
        return searcher.search(queries, k=1, **filters)
    # Asked first: of a single row, unique() takes as long as the scan.
    if (wanted == wanted[0]).all():
        return searcher.search(queries, **_options(*wanted[0].tolist()), **filters)
    kinds, kind_of = np.unique(wanted, axis=0, return_inverse=True)
    kind_of = kind_of.reshape(-1)
    order = np.argsort(kind_of, kind="stable")
    parts = []
    for kind, rows in enumerate(np.split(order, np.cumsum(np.bincount(kind_of))[:-1])):
        own: dict[str, Any] = {name: _take_lists(lists, rows) for name, lists in filters.items()}
        parts.append(searcher.search(queries[rows], **_options(*kinds[kind].tolist()), **own))
    return _take_candidates(Candidates.concatenated(parts), np.argsort(order))


def _take_lists(lists: IdLists | None, rows: Int64) -> IdLists | None:
    """The lists of some rows; None where there are none."""
    if lists is None:
        return None
    offsets, positions = _take(lists.offsets, rows)
    return IdLists(offsets, lists.values[positions])


def _options(k: int, n_probes: int, refine: int) -> dict[str, Any]:
    return {"k": k, "n_probes": n_probes, "refine": None if refine == OF_INDEX else refine}


def _take_candidates(found: Candidates, rows: Int64) -> Candidates:
    _, positions = _take(found.offsets, rows)
    return Candidates(found.counts[rows], found.scores[positions], found.item_ids[positions])


def _take(offsets: Int64, rows: Int64) -> tuple[Int64, Int64]:
    """The offsets of these rows one after the other, and where their values are."""
    lengths = offsets[rows + 1] - offsets[rows]
    taken = offsets_of(lengths)
    return taken, np.arange(taken[-1]) + np.repeat(offsets[rows] - taken[:-1], lengths)
