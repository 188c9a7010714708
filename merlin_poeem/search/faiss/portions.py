"""How many queries, and how many results of each, one scan takes: as many as memory allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from merlin_poeem.arrays import Int64

CHUNK_BYTES = 64 << 20


def blocks(n: int, bytes_each: int, longest: int | None = None) -> Iterator[slice]:
    """Slices of 0..n of at most ``CHUNK_BYTES`` and ``longest``; one empty slice where n is 0."""
    step = max(1, CHUNK_BYTES // max(1, bytes_each))
    step = step if longest is None else min(step, longest)
    for start in range(0, max(n, 1), step):
        yield slice(start, min(start + step, n))


def split(chosen: Int64, width: int) -> list[tuple[Int64, int]]:
    """``chosen`` queries in groups whose ``width`` results each fit in memory together."""
    if not len(chosen):
        return []
    return [(chosen[block], width) for block in blocks(len(chosen), 12 * width)]


def by_width(n_more: Int64, width: int) -> list[tuple[Int64, int]]:
    """Queries grouped by the results to ask for, ``width + n_more`` rounded up to 2ⁱ ``width``.

    A query that excludes much then does not slow down the others.
    """
    if not n_more.any():
        return split(np.arange(len(n_more)), width)
    doublings = np.ceil(np.log2((width + n_more) / width)).astype(np.int64)
    groups = []
    for power in np.unique(doublings).tolist():
        groups += split(np.flatnonzero(doublings == power), width << power)
    return groups
