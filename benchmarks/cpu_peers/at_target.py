"""Queries per second of each method where it finds as much as asked for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cpu_peers.measure import Row
from benchmarks.cpu_peers.ours import OURS


@dataclass(frozen=True)
class AtTarget:
    """One method at the target; None where no setting of it gets there."""

    method: str
    best: float
    """The most that it finds at any of its settings."""
    queries_per_second: float | None
    against_ours: float | None
    """Queries a second over ours, the fastest of our methods that reaches the target."""
    setting: dict[str, Any] | None
    """The fastest setting that finds as much or more: its row."""


def at_target(rows: Sequence[Row], metric: str, target: float, n_queries: int) -> list[AtTarget]:
    """Every method of ``rows``, in their order.

    Between the two measured settings around the target the logarithm of the time is taken to be a
    straight line; ratios are of each round's own, so that what slows the machine slows both.
    """
    by_method = {
        method: [row for row in rows if row["method"] == method]
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    times = {
        method: seconds
        for method, of_method in by_method.items()
        if (seconds := _seconds_at(of_method, metric, target)) is not None
    }
    ours = min(
        (method for method in times if by_method[method][0]["family"] == OURS),
        key=lambda method: statistics.median(times[method]),
        default=None,
    )
    found = []
    for method, of_method in by_method.items():
        seconds = times.get(method)
        speed = ratio = None
        if seconds is not None:
            speed = n_queries / statistics.median(seconds)
            if ours is not None:
                ratio = statistics.median(a / b for a, b in zip(times[ours], seconds, strict=True))
        best = max(row[metric] for row in of_method)
        reaching = [row for row in of_method if row[metric] >= target]
        fastest = max(reaching, key=lambda row: row["queries_per_second"], default=None)
        found.append(AtTarget(method, best, speed, ratio, fastest))
    return found


def outdone_by_none(rows: Sequence[Row], metric: str) -> list[Row]:
    """By what they find, the fastest first: those that no other one of ``rows`` outdoes.

    On the reported queries, that is, where a chosen setting may turn out not to pay.
    """
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (-row["queries_per_second"], -row[metric])):
        if not front or row[metric] > front[-1][metric]:
            front.append(row)
    return front


def _seconds_at(rows: Sequence[Row], metric: str, target: float) -> list[float] | None:
    """A method's seconds at ``target`` in each round; its fastest ones where all find more."""
    front = outdone_by_none(rows, metric)
    found = [row[metric] for row in front]
    if found[-1] < target:
        return None
    rounds = zip(*(row["seconds"] for row in front), strict=True)
    return [float(np.exp(np.interp(target, found, np.log(seconds)))) for seconds in rounds]
