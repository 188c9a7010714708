"""What the kernels return."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from merlin_poeem.arrays import array_module
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.ragged import Candidates


@dataclass(frozen=True, eq=False)
class Results:
    """What the kernels return: arrays on the device, places without a result filled."""

    scores: Any
    """(n, k) float32, falling; −inf after the last result."""
    item_ids: Any
    """(n, k) int64; −1 after the last result."""
    counts: Any
    """(n,) int32, results of each query."""

    @classmethod
    def empty(cls, device: Device, n_queries: int, k: int) -> Results:
        """Room for the results of ``n_queries``, its content undefined."""
        memory = device.xp.empty(results_bytes(n_queries, k), np.uint8)
        return cls.within(device, memory, n_queries, n_queries, k)

    @classmethod
    def within(cls, device: Device, memory: Any, room: int, n_queries: int, k: int) -> Results:
        """The first ``n_queries`` of ``room`` results in ``memory``: (results_bytes,) uint8."""
        ids_end, scores_end = 8 * room * k, 12 * room * k
        return cls(
            device.view(memory, ids_end, (n_queries, k), np.float32),
            device.view(memory, 0, (n_queries, k), np.int64),
            device.view(memory, scores_end, (n_queries,), np.int32),
        )

    def __getitem__(self, queries: slice) -> Results:
        return Results(self.scores[queries], self.item_ids[queries], self.counts[queries])

    def candidates(self) -> Candidates:
        """The results there are, without the filled places; reads one number from the device."""
        counts, k = self.counts.astype(np.int64), self.scores.shape[1]
        if int(counts.min()) == k:
            return Candidates(counts, self.scores.ravel(), self.item_ids.ravel())
        found = array_module(counts).arange(k) < counts[:, None]
        return Candidates(counts, self.scores[found], self.item_ids[found])


def nothing_found(xp: ModuleType, n_queries: int) -> Candidates:
    """No results for each of ``n_queries``, in arrays of ``xp``."""
    return Candidates(xp.zeros(n_queries, np.int64), xp.empty(0, np.float32), xp.empty(0, np.int64))


def results_bytes(n_queries: int, k: int) -> int:
    """Memory of the results of ``n_queries``."""
    return (12 * k + 4) * n_queries
