"""Queries on their way through one scan: what they visit, and what they may return."""

from __future__ import annotations

from dataclasses import dataclass

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.search.faiss.filters import Filter


@dataclass(frozen=True)
class Batch:
    """Queries with the lists they visit."""

    queries_rot: Float32
    """(n, dim), rotated, relative to the searcher's origin; widened where items have scales."""

    probes: Int64
    """(n, n_probes)."""

    list_scores: Float32
    """(n, n_probes), Faiss' score of each probe."""

    n_scanned: Int64
    """(n,), items in the visited lists."""

    item_filter: Filter

    def take(self, chosen: Int64) -> Batch:
        if len(chosen) == len(self.n_scanned):
            return self
        return Batch(
            self.queries_rot[chosen],
            self.probes[chosen],
            self.list_scores[chosen],
            self.n_scanned[chosen],
            self.item_filter.take(chosen),
        )
