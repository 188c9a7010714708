"""The coarse half of any index alone: which lists a query visits, and what searching them costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from merlin_poeem import Index
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.search import reference

CHUNK_ROWS = 4096
SHARES = (0.01, 0.02, 0.05, 0.1, 1.0)


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists and the order in which a batch of queries visits them."""

    sizes: Int64
    """(n_lists,) int64, items in each."""

    scores: Float32
    """(n_queries, n_lists), the highest visited first."""

    @classmethod
    def of(cls, index: Index, queries: Float32) -> Lists:
        """The lists of ``index`` for raw (n_queries, dim) queries."""
        queries_rot = index.quantization.rotate_queries(queries)
        scores = reference.list_scores(
            index.quantization, queries_rot, index.params.metric, index.list_factors
        )
        return cls(index.list_sizes, scores)

    @cached_property
    def scanned(self) -> NDArray[np.float64]:
        """(n_lists,): items scanned with 1, 2, ... probes, the mean over the queries."""
        total = np.zeros(len(self.sizes))
        for start in range(0, len(self.scores), CHUNK_ROWS):
            chunk = self.scores[start : start + CHUNK_ROWS]
            order = np.argsort(-chunk, axis=1, kind="stable")
            total += self.sizes[order].cumsum(axis=1).sum(axis=0)
        return total / len(self.scores)

    def probes(self) -> list[int]:
        """A doubling ladder up to all lists, and the largest number within each share of items."""
        n_lists = len(self.sizes)
        ladder = {1 << step for step in range(n_lists.bit_length()) if 1 << step <= n_lists}
        within = (probes_within(self.scanned, share * self.sizes.sum()) for share in SHARES)
        return sorted({*ladder, n_lists, *(n for n in within if n)})

    def balance(self) -> dict[str, float]:
        """How evenly the items lie."""
        return {
            "max_over_mean_list": float(self.sizes.max() / self.sizes.mean()),
            "empty_lists": int((self.sizes == 0).sum()),
        }


def probes_within(scanned: NDArray[np.float64], limit: float) -> int:
    """The most probes whose mean items scanned are within ``limit``; 0 where one probe is over."""
    return int(np.searchsorted(scanned, limit, side="right"))


def dead_codewords(codes: NDArray[np.unsignedinteger], book_size: int) -> float:
    """Share of the codewords that no row of (n, pq_dim) ``codes`` uses."""
    used = sum(len(np.unique(column)) for column in codes.T)
    return 1 - used / (codes.shape[1] * book_size)
