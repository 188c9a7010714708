"""Peers beside our search where they find as much, whatever number of lists that takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.search_gpu.rows import Row

# A setting that finds this much less than ours is as good.
RECALL_TOLERANCE = 0.005
CATALOG = ("kind", "n_items", "dim", "batch", "k")
INDEX = ("code_bytes", "pq_bits", "n_lists")


def equal_recall(rows: Iterable[Row]) -> list[Row]:
    """For each of our searches and each peer: the peer's fastest setting that finds as much.

    Of exact peers, of the same catalog; of others, of the same index. ``gain`` is the peer's time
    over ours; it and the peer's time are None where none of its settings finds as much.
    """
    known = [row for row in rows if row["error"] is None and row["recall"] is not None]
    compared = []
    for ours in filter(is_ours, known):
        for name, settings in _peers_of(ours, known):
            best = fastest_at_recall(settings, ours["recall"])
            compared.append(
                {
                    **{field: ours[field] for field in (*CATALOG, *INDEX)},
                    "n_probes": ours["n_probes"],
                    "backend": ours["backend"],
                    "recall": ours["recall"],
                    "seconds": ours["seconds"],
                    "peer": name,
                    "peer_n_probes": best and best["n_probes"],
                    "peer_recall": best and best["recall"],
                    "peer_seconds": best and best["seconds"],
                    "gain": _gain(ours, best),
                }
            )
    return compared


def fastest_at_recall(rows: Iterable[Row], recall: float) -> Row | None:
    """Of ``rows``, the fastest that finds as much as ``recall``."""
    good = [row for row in rows if row["seconds"] and row["recall"] >= recall - RECALL_TOLERANCE]
    return min(good, key=lambda row: row["seconds"], default=None)


def is_ours(row: Row) -> bool:
    """Whether a row is of our search of arrays, as a graph or not."""
    return row["peer"] is None and row["backend"] in ("gpu", "gpu (graph)")


def is_exact(row: Row) -> bool:
    """Whether a row's backend scores float vectors."""
    return "exact" in row["backend"] or "brute_force" in row["backend"]


def equal_recall_table(rows: Iterable[Row]) -> str:
    """:func:`equal_recall` as a Markdown table."""
    names = [
        *("items", "bytes", "lists", "batch", "k", "ours", "probes", "recall", "µs"),
        *("peer", "its probes", "its recall", "its µs", "its time / ours"),
    ]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in equal_recall(rows):
        cells: list[Any] = [
            *(f"{row['n_items']:,}", row["code_bytes"], row["n_lists"], row["batch"], row["k"]),
            *(row["backend"], row["n_probes"], _number(row["recall"], ".4f")),
            *(_micro(row["seconds"]), row["peer"], row["peer_n_probes"] or "none"),
            *(_number(row["peer_recall"], ".4f"), _micro(row["peer_seconds"])),
            _number(row["gain"], ".2f"),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _peers_of(ours: Row, rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The settings of each peer that searches the same."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        fields = CATALOG if is_exact(row) else (*CATALOG, *INDEX)
        alike = all(row[field] == ours[field] for field in fields)
        if row["peer"] is not None and alike:
            settings.setdefault(row["backend"], []).append(row)
    yield from settings.items()


def _gain(ours: Row, best: Row | None) -> float | None:
    if best is None or not ours["seconds"]:
        return None
    return float(best["seconds"] / ours["seconds"])


def _micro(seconds: float | None) -> str:
    return _number(None if seconds is None else seconds * 1e6, ",.1f")


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
