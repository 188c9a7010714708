"""Measure the grid, catalog by catalog and index by index, until the time is up."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.catalogs import Catalog, build_index
from benchmarks.device_catalogs import DeviceCatalog, build_device_index
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

# Faiss trains and encodes more on a CPU for minutes.
MOST_ITEMS_OF_FAISS = 5_000_000
# Float vectors, their halves in bf16, and as much again for what peers make of them.
VECTOR_COPIES = 2


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
        print(f"{len(todo) - n_measured} settings left for another run")


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
    catalog = _catalog_of(first, machine, options)
    needed = VECTOR_COPIES * 4 * first.n_items * first.dim
    if needed > machine.device.free_bytes():
        print(f"not measured: {first.n_items:,} items need {needed / 1e9:.1f} GB on the device")
        return
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


def _catalog_of(
    setting: Setting, machine: Machine, options: argparse.Namespace
) -> Catalog | DeviceCatalog:
    """For Faiss to encode; or on the device, where there is no Faiss or too much for it."""
    kind, n_items, dim = setting.kind, setting.n_items, setting.dim
    if options.on_device or n_items > MOST_ITEMS_OF_FAISS or find_spec("faiss") is None:
        return DeviceCatalog(machine.xp, kind, n_items, dim, options.seed)
    return Catalog(kind, n_items, dim, options.seed)


def _index_of(setting: Setting, catalog: Catalog | DeviceCatalog, folder: Path) -> Index:
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    sizes = {
        "code_bytes": setting.code_bytes,
        "n_lists": setting.n_lists,
        "pq_bits": setting.pq_bits,
    }
    if isinstance(catalog, DeviceCatalog):
        index = build_device_index(catalog, **sizes)
    else:
        index = build_index(catalog, **sizes, folder=folder)
    print(f"\n{index} in {time.perf_counter() - started:.1f} s")
    return index


def _progress(total: int) -> Callable[[int], Any]:
    if tqdm is None:
        return lambda n: None
    return tqdm(total=total, unit="setting").update
