"""Measure the grid, catalog by catalog and index by index, until the time is up."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.catalogs import Catalog, build_index
from benchmarks.search_gpu.grid import Setting, by_catalog, by_index, grid
from benchmarks.search_gpu.machine import Machine
from benchmarks.search_gpu.open_catalog import OpenCatalog
from benchmarks.search_gpu.results import Results
from benchmarks.search_gpu.rows import Row
from benchmarks.search_gpu.session import Session
from benchmarks.search_gpu.table import line
from merlin_poeem import Index

try:
    from tqdm import tqdm
except ImportError:  # the table shows the progress too
    tqdm = None


def measure_all(options: argparse.Namespace, machine: Machine, results: Results) -> None:
    """Measure what is not in ``results`` yet, until the time is up."""
    done = results.settings()
    todo = [setting for setting in grid(options) if setting not in done]
    print(f"{len(todo)} settings to measure, {len(done)} already in {results.path}")
    deadline = time.monotonic() + 60 * options.minutes
    advance = _progress(len(todo))
    n_measured = 0
    for of_catalog in by_catalog(todo):
        for setting, rows in _measure_catalog(of_catalog, options, machine, results, deadline):
            results.replace(setting, rows)
            print("\n".join(line(row) for row in rows), flush=True)
            n_measured += 1
            advance(1)
    if n_measured < len(todo):
        print(f"time is up: {len(todo) - n_measured} settings left for another run")


def _measure_catalog(
    settings: list[Setting],
    options: argparse.Namespace,
    machine: Machine,
    results: Results,
    deadline: float,
) -> Iterator[tuple[Setting, list[Row]]]:
    """Each setting and its rows, until ``deadline``; all of one catalog, which is opened once."""
    if time.monotonic() > deadline:
        return
    first = settings[0]
    catalog = Catalog(first.kind, first.n_items, first.dim, options.seed)
    opened = OpenCatalog(catalog, machine, max(options.batches), max(options.ks))
    for of_index in by_index(settings):
        if time.monotonic() > deadline:
            return
        session = Session(opened, _index_of(of_index[0], catalog, options.folder), options.folder)
        results.add_opening(session.opening)
        for setting in of_index:
            if time.monotonic() > deadline:
                return
            yield setting, session.measure(setting)
        del session  # its memory, before the next one is opened


def _index_of(setting: Setting, catalog: Catalog, folder: Path) -> Index:
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    index = build_index(
        catalog,
        code_bytes=setting.code_bytes,
        n_lists=setting.n_lists,
        pq_bits=setting.pq_bits,
        folder=folder,
    )
    print(f"\n{index} in {time.perf_counter() - started:.1f} s")
    return index


def _progress(total: int) -> Callable[[int], Any]:
    if tqdm is None:
        return lambda n: None
    return tqdm(total=total, unit="setting").update
