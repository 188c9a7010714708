"""The settings of a method that are worth having: none faster finds as much."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cpu_peers.built import Built, Setting
from benchmarks.cpu_peers.material import Batch

LOOKS = 3
# A slower setting has to find so much more.
LEAST_GAIN = 0.003


@dataclass(frozen=True, eq=False)
class Point:
    """One setting of a built index, and what it was worth where settings are chosen."""

    built: Built
    setting: Setting
    found: float
    """The first metric of the batch."""
    seconds: float


def choose(built: Sequence[Built], batch: Batch) -> list[Point]:
    """The front of each method, over all its indexes and settings, on the queries of ``batch``."""
    chosen: list[Point] = []
    for method in dict.fromkeys(each.method for each in built):
        points = [
            _look(each, setting, batch)
            for each in built
            if each.method == method
            for setting in each.settings
        ]
        chosen += front(points)
        print(f"{method}: {len(points)} settings tried", flush=True)
    return chosen


def front(points: Sequence[Point]) -> list[Point]:
    """The fastest first; each next one finds ``LEAST_GAIN`` more than all faster ones."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: point.seconds):
        if not kept or point.found >= kept[-1].found + LEAST_GAIN:
            kept.append(point)
    return kept


def _look(built: Built, setting: Setting, batch: Batch) -> Point:
    """The fastest of ``LOOKS`` searches: another job can only slow one down."""
    seconds = []
    for _ in range(LOOKS):
        started = time.perf_counter()
        rows = built.search(batch, setting)
        seconds.append(time.perf_counter() - started)
    name = next(iter(batch.right))
    return Point(built, setting, batch.quality(rows)[name], min(seconds))
