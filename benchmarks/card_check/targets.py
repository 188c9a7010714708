"""What the search is to reach on a card, and what a run says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.card_check.points import LARGE
from benchmarks.search_gpu.equal_recall import equal_recall, is_exact

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A goal, and how its figure is taken from rows."""

    text: str
    figure: Callable[[list[Row], list[Row]], float | None]
    """From the rows of our timings and of peers; None where they do not say."""
    unit: str
    is_met: Callable[[float], bool]


def targets() -> list[Target]:
    """All of them."""
    return [
        Target(
            "cuVS IVF-PQ at its best / ours, equal recall, batch 1,024 and 16,384: at least 3",
            lambda ours, peers: _least_gain(peers, "cuvs ivf_pq", (1024, 16384)),
            "×",
            lambda figure: figure >= 3,
        ),
        Target(
            "the same at batch 1 and 32: at least 4",
            lambda ours, peers: _least_gain(peers, "cuvs ivf_pq", (1, 32)),
            "×",
            lambda figure: figure >= 4,
        ),
        Target(
            "any index peer / ours: never below 1",
            lambda ours, peers: _least_gain(peers, "", None),
            "×",
            lambda figure: figure >= 1,
        ),
        Target(
            "share of the modelled limit at batch 1,024 and more: at least 50",
            _least_share,
            "%",
            lambda figure: figure >= 50,
        ),
        Target(
            "batch 1, 4.3M items, 8 probes, as a graph: at most 25",
            _graph_latency,
            "µs",
            lambda figure: figure <= 25,
        ),
        Target(
            "host time of a search, any batch: at most 25",
            _host_time,
            "µs",
            lambda figure: figure <= 25,
        ),
        Target(
            "frames over arrays at batch 1,024 and more: at most 10",
            _frame_overhead,
            "%",
            lambda figure: figure <= 10,
        ),
        Target(
            "exact bf16 / ours, 4.3M items, batch 16,384: at least 20",
            lambda ours, peers: _gain_over_exact(peers),
            "×",
            lambda figure: figure >= 20,
        ),
    ]


def _least_gain(peers: list[Row], name: str, batches: Sequence[int] | None) -> float | None:
    """The least of the peer's seconds over ours at equal recall, of searches of such batches."""
    gains: dict[tuple[Any, ...], list[float]] = {}
    for row in equal_recall(peers):
        wanted = row["peer"].startswith(name) and not is_exact({"backend": row["peer"]})
        if wanted and row["gain"] and (batches is None or row["batch"] in batches):
            at = row["n_items"], row["batch"], row["k"], row["n_probes"], row["backend"]
            gains.setdefault(at, []).append(row["gain"])
    # At each of our settings the peer may take what is best for it; of ours, the better way counts.
    least = {at: min(each) for at, each in gains.items()}
    of_settings: dict[tuple[Any, ...], float] = {}
    for at, gain in least.items():
        of_settings[at[:-1]] = max(gain, of_settings.get(at[:-1], 0))
    return min(of_settings.values(), default=None)


def _gain_over_exact(peers: list[Row]) -> float | None:
    seconds = {
        row["backend"]: row["seconds"]
        for row in peers
        if (row["n_items"], row["n_probes"], row["batch"]) == (LARGE.n_items, 8, 16384)
    }
    exact, ours = seconds.get("torch exact (bf16)"), seconds.get("gpu")
    return exact / ours if exact and ours else None


def _least_share(ours: list[Row], peers: list[Row]) -> float | None:
    shares = [
        100 * row["limit_share"]
        for row in ours
        if row["limit_share"] and row["batch"] >= 1024 and row["way"] == "planned"
    ]
    return min(shares, default=None)


def _graph_latency(ours: list[Row], peers: list[Row]) -> float | None:
    for row in ours:
        at = row["n_items"], row["batch"], row["n_probes"]
        if at == (LARGE.n_items, 1, 8) and row["graph_seconds"]:
            return float(row["graph_seconds"] * 1e6)
    return None


def _host_time(ours: list[Row], peers: list[Row]) -> float | None:
    times = [1e6 * row["host_seconds"] for row in ours if row["host_seconds"]]
    return max(times, default=None)


def _frame_overhead(ours: list[Row], peers: list[Row]) -> float | None:
    overheads = [
        100 * row["frame_overhead"]
        for row in peers
        if row["frame_overhead"] is not None and row["batch"] >= 1024
    ]
    return max(overheads, default=None)
