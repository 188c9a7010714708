"""Which settings are tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cpu_peers.material import Material
from benchmarks.cpu_peers.over_fetch import EXTRA

PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
EXPANSIONS = (1, 1.25, 1.5, 2, 3, 4, 6)
# Excluded items that a query of those without such a filter leaves room for: of all of them, shares
# of the queries whose excluded items are no more.
SHARES = (0.9, 1.0)


@dataclass(frozen=True)
class Grid:
    """The axes, for all methods alike."""

    n_probes: tuple[int, ...]
    refine: tuple[int, ...]
    """Candidates scored by their vectors, for each result wanted."""
    connectivity: tuple[int, ...]
    expansion: tuple[int, ...]
    """Candidates that a graph keeps during a search."""
    extra: dict[str, tuple[int, ...]]
    """The axis of those that know no excluded items; none where nothing is excluded."""
    threads: int
    is_quick: bool

    @classmethod
    def of(cls, material: Material, threads: int, is_quick: bool) -> Grid:
        """A few of the settings where ``is_quick``."""
        n_probes = tuple(n for n in PROBES if n <= max(1, material.n_lists // 2))
        extra = {}
        exclude = material.chosen_by.exclude
        if exclude is not None:
            quantiles = np.quantile(exclude.lengths, SHARES[-1:] if is_quick else SHARES)
            extra = {EXTRA: tuple(sorted({int(n) for n in np.ceil(quantiles)}))}
        refine, connectivity, expansion = (1, 2, 3, 4, 6, 8), (12, 16, 32), EXPANSIONS
        if is_quick:
            n_probes, refine, connectivity, expansion = n_probes[1::3], (2, 4), (16,), (1, 2, 4)
        candidates = tuple(int(times * material.k) for times in expansion)
        return cls(n_probes, refine, connectivity, candidates, extra, threads, is_quick)
