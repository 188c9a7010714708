"""Contenders in turns, so that what slows the machine slows all of them; ratios in each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.search import SETTLE_SECONDS
from benchmarks.serving.contenders import Contender
from workflows.serving.triton_server import TritonServer

Row = dict[str, Any]
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
"""Of a request, as Triton counts it."""


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    rounds: int
    requests: int
    """One after the other, in a round, of the smallest batch; fewer of larger ones."""
    seconds: float
    """Of a round without pauses."""

    def count(self, batch: int) -> int:
        """Requests of a round."""
        return max(5, int(self.requests / (1 + (batch - 1) / 64)))


def measure(contenders: Sequence[Contender], raw: str, batch: int, effort: Effort) -> list[Row]:
    """A row a contender; ``ratio`` is to the one named ``raw``, the median over rounds."""
    latencies: dict[str, list[np.ndarray]] = {each.name: [] for each in contenders}
    rates: dict[str, list[float]] = {each.name: [] for each in contenders}
    for each in contenders:
        each.latencies(batch, 5)
    for _ in range(effort.rounds):
        for each in contenders:
            time.sleep(SETTLE_SECONDS)
            latencies[each.name].append(np.array(each.latencies(batch, effort.count(batch))))
        for each in contenders:
            time.sleep(SETTLE_SECONDS)
            rates[each.name].append(each.rate(batch, effort.seconds))
    rows = []
    for name, of_rounds in latencies.items():
        p50, p99 = np.percentile(1e3 * np.concatenate(of_rounds), (50, 99))
        rows.append(
            {
                "contender": name,
                "batch": batch,
                "p50_ms": float(p50),
                "p99_ms": float(p99),
                "requests_per_second": statistics.median(rates[name]),
                "ratio_of_p50": _median_ratio(
                    [np.median(each) for each in of_rounds],
                    [np.median(each) for each in latencies[raw]],
                ),
                "ratio_of_rate": _median_ratio(rates[name], rates[raw]),
                "requests": sum(map(len, of_rounds)),
            }
        )
    return rows


def shares(server: TritonServer, model: str, contender: Contender, count: int) -> dict[str, float]:
    """Microseconds of a request of one row: Triton's parts, and ``outside`` of them the rest.

    Outside are the client, gRPC and the loopback.
    """
    before = _nanoseconds(server, model)
    seconds = contender.latencies(1, count)
    after = _nanoseconds(server, model)
    n_requests = after["count"] - before["count"]
    found = {name: (after[name] - before[name]) / 1e3 / n_requests for name in PARTS}
    inside = (after["success"] - before["success"]) / 1e3 / n_requests
    found["between"] = inside - sum(found.values())
    found["outside"] = 1e6 * statistics.fmean(seconds) - inside
    return found


def _nanoseconds(server: TritonServer, model: str) -> dict[str, int]:
    counted = server.statistics(model)["inference_stats"]
    found = {name: int(counted[name]["ns"]) for name in (*PARTS, "success")}
    return {**found, "count": int(counted["success"]["count"])}


def _median_ratio(ours: Sequence[float], raw: Sequence[float]) -> float:
    return float(statistics.median(a / b for a, b in zip(ours, raw, strict=True)))
