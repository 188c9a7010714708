"""What is measured: every setting of the grid that was asked for."""

from __future__ import annotations

import argparse
import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

QUICK_SIZES: dict[str, Any] = {
    "n_items": [570_000],
    "dims": [64],
    "code_bytes": [16],
    "n_lists": [1024],
    "n_probes": [8],
    "batches": [1, 1024],
    "ks": [100],
}
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    # 12.8 GB of float vectors, and many results.
    "huge": {
        "n_items": [50_000_000],
        "dims": [64],
        "code_bytes": [16],
        "n_lists": [16384],
        "n_probes": [8, 32, 64],
        "batches": [1, 32, 1024, 16384],
        "ks": [1500],
    },
}
EMULATED_SIZES: dict[str, Any] = {
    "n_items": [1500],
    "dims": [16],
    "code_bytes": [8],
    "n_lists": [16],
    "n_probes": [1, 4],
    "batches": [1, 8],
    "ks": [10],
}


@dataclass(frozen=True)
class Setting:
    """One point of the grid: how an index was made and how it is searched."""

    kind: str
    n_items: int
    dim: int
    code_bytes: int
    pq_bits: int
    n_lists: int
    n_probes: int
    batch: int
    k: int


def grid(options: argparse.Namespace) -> list[Setting]:
    """Every setting that was asked for, those of one index side by side."""
    axes = itertools.product(
        [options.kind],
        options.n_items,
        options.dims,
        options.code_bytes,
        [options.pq_bits],
        options.n_lists,
        options.n_probes,
        options.batches,
        options.ks,
    )
    settings = itertools.starmap(Setting, axes)
    return [s for s in settings if s.n_probes <= s.n_lists and s.k <= s.n_items]


def by_catalog(settings: Iterable[Setting]) -> Iterator[list[Setting]]:
    """Runs of settings of one catalog."""
    return _runs(settings, "kind", "n_items", "dim")


def by_index(settings: Iterable[Setting]) -> Iterator[list[Setting]]:
    """Of settings of one catalog, runs of one index."""
    return _runs(settings, "code_bytes", "pq_bits", "n_lists")


def _runs(settings: Iterable[Setting], *names: str) -> Iterator[list[Setting]]:
    """Runs of settings that agree in the fields ``names``."""
    for _, run in itertools.groupby(settings, operator.attrgetter(*names)):
        yield list(run)
