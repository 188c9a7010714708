"""The chosen settings on other queries than chose them: answers first, then times in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.cpu_peers.choose import Point
from benchmarks.cpu_peers.material import Batch
from benchmarks.faiss_scales import take_turns

Row = dict[str, Any]


def measure(points: Sequence[Point], batch: Batch, rounds: int) -> list[Row]:
    """A row a point, with the seconds of each round: in every one, all points have a turn."""
    searches = {
        str(number): partial(point.built.search, batch, point.setting)
        for number, point in enumerate(points)
    }
    rows = [
        _row(point, batch, search())
        for point, search in zip(points, searches.values(), strict=True)
    ]
    seconds = take_turns(searches, rounds)
    for row, times in zip(rows, seconds.values(), strict=True):
        row["seconds"] = times
        row["queries_per_second"] = len(batch.queries) / statistics.median(times)
    return rows


def _row(point: Point, batch: Batch, rows: Any) -> Row:
    batch.check(rows)
    built = point.built
    return {
        "method": built.method,
        "family": built.family,
        "stored": built.stored,
        "form": built.form,
        "setting": point.setting,
        "code_bytes": built.code_bytes,
        "vector_bytes": built.vector_bytes,
        "link_bytes": built.link_bytes,
        "bytes_per_item": built.bytes_per_item,
        "build_seconds": built.build_seconds,
        "chosen_at": point.found,
        **batch.quality(rows),
    }
