"""Filters as Faiss needs them: allowed rows before the scan, excluded rows dropped after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.search.item_set import ItemFilter, ItemSet
from merlin_poeem.search.ragged import IdLists
from merlin_poeem.search.request import SearchRequest


@dataclass(frozen=True)
class Filter:
    """What each query must not, or may only, return.

    A (query, row) pair is one number, ``query * n_items + row``, and a filter a sorted array of
    them. Ids that the index does not hold have no pair. Item sets, the same for all queries, are
    one mask of the rows: pairs tell only of rows in it.
    """

    queries: Int64
    """(n,), the numbers that the pairs know these queries by."""

    n_items: int
    eligible: NDArray[np.bool_] | None
    """(n_items,), the rows that the sets leave; None where there is no set."""
    excluded: Int64 | None
    allowed: Int64 | None

    @classmethod
    def of(cls, index: Index | FlatIndex, request: SearchRequest) -> Filter:
        eligible = _eligible(index, request)
        excluded = _pairs(index, request.exclude, eligible)
        allowed = _pairs(index, request.allow, eligible)
        if excluded is not None and allowed is not None:
            allowed = np.setdiff1d(allowed, excluded, assume_unique=True)
            excluded = None
        return cls(np.arange(len(request)), index.n_items, eligible, excluded, allowed)

    def of_queries(self, block: slice) -> Filter:
        return replace(self, queries=self.queries[block])

    def take(self, chosen: Int64) -> Filter:
        return replace(self, queries=self.queries[chosen])

    @property
    def n_excluded(self) -> Int64:
        """(n,), excluded items of each query."""
        if self.excluded is None:
            return np.zeros(len(self.queries), np.int64)
        first = np.searchsorted(self.excluded, self.queries * self.n_items)
        last = np.searchsorted(self.excluded, (self.queries + 1) * self.n_items)
        return np.asarray(last - first)

    def allowed_rows(self, i: int) -> Int64:
        """Rows that query ``i`` may return."""
        assert self.allowed is not None
        first = self.queries[i] * self.n_items
        start, stop = np.searchsorted(self.allowed, (first, first + self.n_items))
        return np.asarray(self.allowed[start:stop] - first)

    def drop_excluded(self, scores: Float32, rows: Int64) -> None:
        """Mark excluded items in ``rows`` (n, width) as absent: row −1, score −inf."""
        if self.excluded is None or not len(self.excluded):
            return
        pairs = self.queries[:, None] * self.n_items + rows
        place = np.searchsorted(self.excluded, pairs)
        np.minimum(place, len(self.excluded) - 1, out=place)
        # An absent row makes the pair of another query's last item.
        dropped = (self.excluded[place] == pairs) & (rows >= 0)
        rows[dropped], scores[dropped] = -1, -np.inf


def _eligible(index: Index | FlatIndex, request: SearchRequest) -> NDArray[np.bool_] | None:
    """(n_items,), whether the request's item sets leave a row; None where it has none."""
    if not isinstance(request.exclude, ItemSet) and not isinstance(request.allow, ItemSet):
        return None
    eligible: NDArray[np.bool_] = np.ones(index.n_items, bool)
    if isinstance(request.allow, ItemSet):
        eligible = _mask(index, request.allow)
    if isinstance(request.exclude, ItemSet):
        eligible &= ~_mask(index, request.exclude)
    return eligible


def _mask(index: Index | FlatIndex, item_set: ItemSet) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.zeros(index.n_items, bool)
    rows = index.rows_of(item_set.item_ids)
    mask[rows[rows >= 0]] = True
    return mask


def _pairs(
    index: Index | FlatIndex, lists: ItemFilter | None, eligible: NDArray[np.bool_] | None
) -> Int64 | None:
    """The pairs of ``lists`` whose rows are eligible; None where there are no lists."""
    if not isinstance(lists, IdLists):
        return None
    rows = index.rows_of(lists.values)
    told = rows >= 0
    if eligible is not None:
        told[told] = eligible[rows[told]]
    queries = np.repeat(np.arange(len(lists)), lists.lengths)
    pairs = np.sort(queries[told] * index.n_items + rows[told])
    # Without repeats, as np.unique does, whose hashing is several times slower here.
    return pairs[np.diff(pairs, prepend=-1) > 0]
