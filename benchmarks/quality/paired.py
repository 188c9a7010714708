"""Ours beside each of the others, query by query: the mean difference and how sure it is.

A query's difference is the mean over seeds, which all have the same queries. The interval is the
normal one of the mean difference, 1.96 standard errors to each side: it says how much another draw
of users would change, not another training; the differences of the single seeds say that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.choice import Choice, is_of
from benchmarks.quality.judge import AGREEMENT, PER_QUERY, PLAIN, Row
from benchmarks.quality.methods import EXACT, OURS
from benchmarks.quality.trial import TrialName
from benchmarks.quality.variants import TASKS

Z = 1.96
EXACT_PLAIN = f"exact, {PLAIN}"


@dataclass(frozen=True)
class Difference:
    """Of a metric, ours less the other's."""

    mean: float
    low: float
    high: float
    by_seed: list[float]
    n_queries: int

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> Difference:
        """Of (n_seeds, n_queries) differences; ``ValueError`` for fewer than two queries."""
        n_queries = differences.shape[1]
        if n_queries < 2:
            raise ValueError(f"differences: expected at least 2 queries, got {n_queries}")
        of_queries = differences.mean(axis=0)
        mean = of_queries.mean()
        half = Z * of_queries.std(ddof=1) / np.sqrt(n_queries)
        return cls(
            float(mean),
            float(mean - half),
            float(mean + half),
            differences.mean(axis=1).tolist(),
            n_queries,
        )


def paired_rows(choices: list[Choice], rows: list[Row], folder: Path) -> list[dict[str, Any]]:
    """For each choice of ours a row for each other choice of its size, and for exact search.

    ``folder`` has the trials, with the values of their queries.
    """
    kept = [row for row in rows if row["values"] is not None]
    found = []
    for ours in (choice for choice in choices if choice["family"] == OURS):
        mine = _rows_of(ours, kept)
        for against, theirs in _others(ours, choices, kept):
            seeds = sorted(mine.keys() & theirs.keys())
            if not seeds:
                continue
            # Exact search agrees with itself: ours less 1 would say nothing.
            agreement = () if against == EXACT_PLAIN else (AGREEMENT,)
            for metric in (*TASKS[ours["task"]].metrics, *agreement):
                differences = np.stack([
                    _values(mine[seed], metric, folder) - _values(theirs[seed], metric, folder)
                    for seed in seeds
                ])  # fmt: skip
                found.append({
                    "task": ours["task"],
                    "size": ours["size"],
                    "refine": ours["refine"],
                    "against": against,
                    "metric": metric,
                    **vars(Difference.of(differences)),
                })  # fmt: skip
    return found


def _others(
    ours: Choice, choices: list[Choice], rows: list[Row]
) -> Iterator[tuple[str, dict[int, Row]]]:
    same = ("task", "size", "refine")
    for choice in choices:
        if choice["family"] != OURS and all(choice[key] == ours[key] for key in same):
            yield choice["family"], _rows_of(choice, rows)
    exact = [r for r in rows if r["family"] == EXACT and r["variant"] == PLAIN]
    yield EXACT_PLAIN, {r["seed"]: r for r in exact if r["task"] == ours["task"]}


def _rows_of(choice: Choice, rows: list[Row]) -> dict[int, Row]:
    """By seed, what was chosen, at the share that it was chosen at."""
    return {row["seed"]: row for row in rows if is_of(row, choice)}


def _values(row: Row, metric: str, folder: Path) -> NDArray[np.float64]:
    name = TrialName(row["task"], row["variant"], row["seed"], row["part"])
    with np.load(name.folder(folder) / PER_QUERY) as arrays:
        return np.asarray(arrays[f"{row['values']}:{metric}"])
