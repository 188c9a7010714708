"""What the kernels return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.search.gpu.device import Device


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
        xp = device.xp
        return cls(
            xp.empty((n_queries, k), np.float32),
            xp.empty((n_queries, k), np.int64),
            xp.empty(n_queries, np.int32),
        )

    def __getitem__(self, queries: slice) -> Results:
        return Results(self.scores[queries], self.item_ids[queries], self.counts[queries])
