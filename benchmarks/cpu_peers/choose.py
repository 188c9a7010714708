"""The settings of a method that are worth having: none faster finds as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.cpu_peers.built import Built, Setting, timed
from benchmarks.cpu_peers.material import Batch

# Searches of a setting that its first one has not put far behind others; the fastest counts, as
# another job can only slow one down.
LOOKS = 3
FAR_BEHIND = 1.5
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
        points: list[Point] = []
        for each in built:
            if each.method == method:
                each.search(batch, each.settings[0])  # the first one is slow
                points += [_first_look(each, setting, batch) for setting in each.settings]
        chosen += front([_look_again(point, batch) for point in near_the_front(points)])
        print(f"{method}: {len(points)} settings tried", flush=True)
    return chosen


def front(points: Sequence[Point]) -> list[Point]:
    """The fastest first; each next one finds ``LEAST_GAIN`` more than all faster ones."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: point.seconds):
        if not kept or point.found >= kept[-1].found + LEAST_GAIN:
            kept.append(point)
    return kept


def near_the_front(points: Sequence[Point]) -> list[Point]:
    """Those that take less than ``FAR_BEHIND`` times what another takes to find as much."""
    return [
        point
        for point in points
        if point.seconds
        < FAR_BEHIND * min(other.seconds for other in points if other.found >= point.found)
    ]


def _first_look(built: Built, setting: Setting, batch: Batch) -> Point:
    rows, seconds = timed(built.search, batch, setting)
    name = next(iter(batch.right))
    return Point(built, setting, batch.quality(rows)[name], seconds)


def _look_again(point: Point, batch: Batch) -> Point:
    looks = [timed(point.built.search, batch, point.setting)[1] for _ in range(LOOKS - 1)]
    return replace(point, seconds=min(point.seconds, *looks))
