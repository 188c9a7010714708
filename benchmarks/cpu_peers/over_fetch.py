"""Excluded items for those that search without such a filter: asked for more, and dropped.

The dropping is part of a search's time. Which rows a query excludes is looked up in a table that is
made beforehand, which a server would not have.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_peers.built import Setting
from benchmarks.cpu_peers.material import NO_ROW, Batch
from merlin_poeem.arrays import Float32, Int64

EXTRA = "extra"
"""The setting: results asked for beyond ``k``."""

Find = Callable[[Float32, int, Setting], Int64]
"""Queries, results wanted, the setting → (n_queries, wanted) rows."""


def over_fetching(find: Find, k: int) -> Callable[[Batch, Setting], Int64]:
    """``find`` as a search without the excluded items."""

    def search(batch: Batch, setting: Setting) -> Int64:
        wanted = min(k + setting.get(EXTRA, 0), batch.n_items)
        rows = find(batch.queries, wanted, setting)
        return rows if batch.exclude is None else first_allowed(rows, batch.is_excluded, k)

    return search


def first_allowed(rows: Int64, is_excluded: NDArray[np.bool_], k: int) -> Int64:
    """(n, k): the first ``k`` of (n, width) rows that are not excluded, and ``NO_ROW``."""
    kept = (rows != NO_ROW) & ~np.take_along_axis(is_excluded, rows, axis=1)
    places = kept.cumsum(axis=1) - 1
    kept &= places < k
    first = np.full((len(rows), k), NO_ROW)
    first[np.nonzero(kept)[0], places[kept]] = rows[kept]
    return first
