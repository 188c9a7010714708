"""Which items are right for which query, and what a search is worth by that.

Queries that want the same items share one list of them: the tutorial's 10,000 queries have 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from merlin_poeem import Candidates, IdLists
from merlin_poeem.arrays import Int64

FEW, MANY = 20, 100
NO_ITEM = -1


@dataclass(frozen=True, eq=False)
class Relevance:
    """The right items of every query, by groups of queries that have the same."""

    lists: IdLists
    """Per group the right item ids, 0 and up."""

    groups: Int64
    """(n_queries,) int64, the group of each query."""

    def __post_init__(self) -> None:
        if self.lists.values.min(initial=0) < 0:
            raise ValueError(f"lists: expected ids from 0, got {self.lists.values.min()}")
        if len(self.groups) and not 0 <= self.groups.min() <= self.groups.max() < len(self.lists):
            raise ValueError(
                f"groups: expected numbers below {len(self.lists)}, one of each list; "
                f"got {self.groups.min()} to {self.groups.max()}"
            )

    @classmethod
    def of_each(cls, lists: IdLists) -> Relevance:
        """Every query a group of its own."""
        return cls(lists, np.arange(len(lists)))

    def per_query(self, found: Candidates) -> dict[str, NDArray[np.float64]]:
        """Of every query that has a right item, (n,) float64 each: ``recall_at_20, ndcg_at_20,
        recall_at_100, precision_at_100``. Their means are those of :mod:`merlin_poeem.evaluate`.

        The functions of ``evaluate`` want a list a query, which the tutorial has no room for; here
        the hits are found once for all.
        """
        hits, n_right = self._hits(found)
        gains = 1 / np.log2(np.arange(2, FEW + 2))
        ideal = np.cumsum(gains)[np.minimum(n_right, FEW) - 1]
        few = hits[:, :FEW]
        return {
            f"recall_at_{FEW}": few.sum(axis=1) / n_right,
            f"ndcg_at_{FEW}": few @ gains / ideal,
            f"recall_at_{MANY}": hits.sum(axis=1) / n_right,
            f"precision_at_{MANY}": hits.mean(axis=1),
        }

    def share_found(self, found: Candidates) -> NDArray[np.float64]:
        """(n,) share of the right items among the first 100 results, of every query that has some.

        Where the right items are the first 100 of an exact search, the mean is
        :func:`merlin_poeem.evaluate.agreement`, which would sort them anew for each search.
        """
        hits, n_right = self._hits(found)
        return hits.sum(axis=1) / n_right

    def _hits(self, found: Candidates) -> tuple[NDArray[np.bool_], Int64]:
        """(n, 100) hits and (n,) numbers of right items, of the queries that have any."""
        if len(found) != len(self.groups):
            raise ValueError(
                f"found: expected results of {len(self.groups)} queries, got {len(found)}"
            )
        width = max(MANY, int(found.counts.max(initial=0)))
        item_ids = found.padded(width, fill_id=NO_ITEM)[1][:, :MANY]
        keys, n_right, n_ids = self._keys
        wanted = self.groups[:, None] * n_ids + item_ids
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hits = (keys[places] == wanted) & (item_ids >= 0) & (item_ids < n_ids)
        judged = n_right[self.groups] > 0
        return hits[judged], n_right[self.groups][judged]

    @cached_property
    def _keys(self) -> tuple[Int64, Int64, int]:
        """Sorted numbers of the pairs of group and right item, their count a group, the stride."""
        n_ids = int(self.lists.values.max(initial=0)) + 1
        groups = np.repeat(np.arange(len(self.lists)), self.lists.lengths)
        keys = np.unique(groups * n_ids + self.lists.values)
        if not len(keys):
            raise ValueError("relevance: expected a query with a right item, got none")
        return keys, np.bincount(keys // n_ids, minlength=len(self.lists)), n_ids
