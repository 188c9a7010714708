"""Search on a GPU beside everything else that could do it: ``python -m benchmarks.search_gpu``.

For every size of the grid: queries a second, recall against exact search, the share of what the
card could do at best (``benchmarks/limits.py``), and the same of every peer that is installed
(``benchmarks/peers.py``), in turns within the same run. Before anything is timed its answers are
compared with the CPU's; a wrong one is never timed. Times are CUDA events around a whole search,
from queries on the device to results on the device; batches take turns, so that no search finds
the lists of the one before it in the cache.

Rows go to ``results/search_gpu.json`` as they come, and a later run goes on where this one stopped.
``--emulate`` runs the kernels on the CPU, on tiny sizes: it shows that all of this works, and
measures nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import operator
import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import merlin_poeem
from benchmarks.catalogs import KINDS, Catalog, build_index
from benchmarks.limits import Rates, Work, limit_seconds
from benchmarks.peers import (
    SMALL_BATCH,
    Backend,
    Hits,
    Material,
    exact_top_k,
    first_line,
    open_exact_peers,
    open_faiss_cpu,
    open_index_peers,
)
from merlin_poeem import Index, search_frame
from merlin_poeem.arrays import Float32, Int64, to_host
from merlin_poeem.evaluate import items_scanned, recall_at_k
from merlin_poeem.search import reference
from merlin_poeem.search.gpu.device import CupyDevice, Device
from merlin_poeem.search.gpu.searcher import GpuSearcher
from merlin_poeem.search.ragged import IdLists

try:
    from tqdm import tqdm
except ImportError:  # the table shows the progress too
    tqdm = None

OURS = "gpu"
GRAPH = "gpu (graph)"
FRAMES = "gpu (frames)"

# Bulk searches whose frames are timed.
FRAME_BATCH = 1024
# Batches that take turns, and how often each backend has one.
QUERY_SETS = 4
MIN_ROUNDS, MAX_ROUNDS = 3, 100
SECONDS_PER_BACKEND = 0.3
CHECKED_QUERIES = 64
RECALL_QUERIES = 1000
# Rounding may part the scores of two backends by this part of the largest.
SCORE_TOLERANCE = 1e-4


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


@dataclass(frozen=True)
class Machine:
    """What measures: the device that searches, and the least that it could take."""

    device: Device
    rates: Rates | None
    """None where the device is emulated: times mean nothing then, and are not taken."""
    description: dict[str, str]
    """Columns of every row: device, driver, cuda, date."""

    @property
    def is_emulated(self) -> bool:
        """Whether there is no card."""
        return self.rates is None

    @property
    def xp(self) -> ModuleType:
        """CuPy, or NumPy."""
        return self.device.xp


class OpenCatalog:
    """The items and queries of a catalog on the device, and what does not depend on an index.

    ``largest_batch`` and ``largest_k`` are those to come.
    """

    def __init__(
        self, catalog: Catalog, machine: Machine, largest_batch: int, largest_k: int
    ) -> None:
        self.catalog, self.machine = catalog, machine
        self._largest_k = min(largest_k, catalog.n_items)
        self.material = Material(
            catalog, self._upload_vectors(), machine.xp, machine.device.stream_id()
        )
        self.query_sets = [
            machine.xp.asarray(catalog.queries(largest_batch, part=part))
            for part in range(QUERY_SETS)
        ]
        n_judged = CHECKED_QUERIES if machine.is_emulated else RECALL_QUERIES
        self.recall_queries = catalog.queries(n_judged, part=QUERY_SETS)
        self.exact_peers = open_exact_peers(self.material)
        self.exact_seconds: dict[tuple[str, int, int], float] = {}
        """By backend, batch and k: measured once a run, whatever the index is."""
        self._exact_recalls: dict[tuple[str, int], float] = {}

    def recall(self, backend: Backend, k: int, n_probes: int) -> float:
        """Against exact search of the float vectors."""
        key = (backend.name, k)
        if key in self._exact_recalls:
            return self._exact_recalls[key]
        queries = self.machine.xp.asarray(self.recall_queries)
        item_ids = search_to_host(backend, queries, k, n_probes)[1]
        recall = recall_at_k(item_ids, IdLists.from_rows(list(self._truth[:, :k])), k)
        if backend.is_exact:
            self._exact_recalls[key] = recall
        return recall

    @cached_property
    def _truth(self) -> Int64:
        """Item ids (queries judged, largest k) of exact search."""
        xp = self.machine.xp
        queries = xp.asarray(self.recall_queries)
        rows = exact_top_k(xp, self.material.vectors, queries, self._largest_k)[1]
        return self.catalog.item_ids(to_host(rows))

    def _upload_vectors(self) -> Any:
        """(n_items, dim) float32 on the device, a chunk at a time."""
        xp = self.machine.xp
        vectors = xp.empty((self.catalog.n_items, self.catalog.dim), xp.float32)
        start = 0
        for chunk in self.catalog.chunks():
            vectors[start : start + len(chunk)] = xp.asarray(chunk)
            start += len(chunk)
        return vectors


class Session:
    """One index, opened by everything that is to be measured on it."""

    def __init__(self, opened: OpenCatalog, index: Index, folder: Path) -> None:
        self.opened, self.index, self.machine = opened, index, opened.machine
        self.xp = self.machine.xp
        self.searcher = GpuSearcher(index, device=self.machine.device)
        self.opening = self._measure_opening()
        self._ours = Backend(
            OURS,
            merlin_poeem.__version__,
            lambda queries, k, n_probes: self.searcher.search_padded(
                queries, k=k, n_probes=n_probes
            ),
            _results_on_host,
        )
        self._peers = open_index_peers(opened.material, index, folder) + opened.exact_peers
        self._judge = open_faiss_cpu(index)
        self._recalls: dict[tuple[str, int, int], float] = {}

    def measure(self, setting: Setting) -> list[dict[str, Any]]:
        """A row per backend. Where our answers are wrong: one row that says so, with no times."""
        batch, k, n_probes = setting.batch, setting.k, setting.n_probes
        queries = self.opened.query_sets[0][:batch]
        judged = queries[:CHECKED_QUERIES]
        expected = search_to_host(self._judge, judged, k, n_probes)
        rows: dict[str, dict[str, Any]] = {}
        backends = []
        for backend in self._backends(batch, k, n_probes):
            try:
                hits = search_to_host(backend, queries, k, n_probes)
                recall = self._recall(backend, k, n_probes)
            except Exception as error:  # peers raise what they like where they have no kernel
                if backend.peer is None:
                    raise
                print(f"missing: {backend.name} at batch {batch}, k {k}: {first_line(error)}")
                continue
            row = self._row(backend, setting) | {"recall": recall}
            row["agreement"] = None if backend.is_exact else overlap(hits, expected)
            if backend.peer is None:
                row["error"] = find_error(self.index, to_host(judged), hits, expected)
                if row["error"]:
                    return [_add_times(row, None, None)]
            rows[backend.name] = row
            backends.append(backend)
        seconds = self._seconds(backends, batch, k, n_probes)
        for name, row in rows.items():
            _add_times(row, seconds[name], seconds[OURS])
            if row["peer"] is None:
                row["limit_share"] = self._limit_share(setting, row["path"], seconds[name])
        if batch >= FRAME_BATCH or self.machine.is_emulated:
            rows[FRAMES] = self._frames_row(setting)
        return list(rows.values())

    def _backends(self, batch: int, k: int, n_probes: int) -> list[Backend]:
        ours = [self._ours]
        if batch <= SMALL_BATCH:
            ours.append(_graph_backend(self.searcher, batch, k, n_probes))
        return ours + [p for p in self._peers if p.max_batch is None or batch <= p.max_batch]

    def _row(self, backend: Backend, setting: Setting) -> dict[str, Any]:
        """What is known of a row before anything is measured."""
        plan = asdict(self.searcher.plan(setting.batch, setting.k, setting.n_probes))
        is_ours = backend.peer is None
        return {
            "backend": backend.name,
            "peer": backend.peer,
            "peer_version": backend.version,
            **asdict(setting),
            "pq_dim": self.index.params.pq_dim,
            "recall": None,
            "agreement": None,
            "error": None,
            "note": backend.note,
            "path": plan["path"] if is_ours else None,
            "plan": plan if is_ours else None,
            "limit_share": None,
            "frame_overhead": None,
            **self.machine.description,
        }

    def _recall(self, backend: Backend, k: int, n_probes: int) -> float:
        """The same for every batch, and for a captured search as for one that is not."""
        if backend.is_exact:
            return self.opened.recall(backend, k, n_probes)
        chosen = self._ours if backend.name == GRAPH else backend
        key = (chosen.name, k, n_probes)
        if key not in self._recalls:
            self._recalls[key] = self.opened.recall(chosen, k, n_probes)
        return self._recalls[key]

    def _seconds(
        self, backends: list[Backend], batch: int, k: int, n_probes: int
    ) -> dict[str, float | None]:
        """Median seconds of a search by each backend, None where there is no card."""
        if self.machine.is_emulated:
            return {backend.name: None for backend in backends}
        known = self.opened.exact_seconds
        timed = [b for b in backends if (b.name, batch, k) not in known]
        works = {b.name: (self._turns(b, batch, k, n_probes), b.on_device) for b in timed}
        seconds = take_turns(works, self.xp)
        known |= {(b.name, batch, k): seconds[b.name] for b in timed if b.is_exact}
        return {b.name: known.get((b.name, batch, k), seconds.get(b.name)) for b in backends}

    def _turns(self, backend: Backend, batch: int, k: int, n_probes: int) -> Callable[[], Any]:
        """A search of the next batch each time it is called."""
        batches = [queries[:batch] for queries in self.opened.query_sets]
        if not backend.on_device:
            batches = [to_host(queries) for queries in batches]
        in_turn = itertools.cycle(batches)
        return lambda: backend.search(next(in_turn), k, n_probes)

    def _limit_share(self, setting: Setting, path: str, seconds: float | None) -> float | None:
        rates = self.machine.rates
        if rates is None or seconds is None:
            return None
        scanned = items_scanned(self.index, self.opened.recall_queries, setting.n_probes)
        work = Work(
            n_items=setting.n_items,
            dim=setting.dim,
            pq_dim=self.index.params.pq_dim,
            pq_bits=setting.pq_bits,
            n_lists=setting.n_lists,
            batch=setting.batch,
            k=setting.k,
            items_scanned=float(scanned.mean()),
        )
        return limit_seconds(work, rates, "bulk" if path == "bulk" else "scan") / seconds

    def _frames_row(self, setting: Setting) -> dict[str, Any]:
        """Search from frame to frame, cuDF's where it is installed, by the wall clock."""
        k, n_probes = setting.k, setting.n_probes
        row = self._row(self._ours, setting) | {"backend": FRAMES}
        module = _frame_library(self.xp)
        if module is None:
            return _add_times(row | {"note": "missing: cudf"}, None, None)
        queries = self.opened.query_sets[0][: setting.batch]
        names = [f"v{j}" for j in range(setting.dim)]
        frame = module.DataFrame(queries, columns=names)

        def search_frames() -> Any:
            return search_frame(self.searcher, frame, vectors=names, k=k, n_probes=n_probes)

        def search() -> Any:
            return self.searcher.search(queries, k=k, n_probes=n_probes)

        if self.machine.is_emulated:
            search_frames()
            return _add_times(row, None, None)
        works = {FRAMES: (search_frames, False), OURS: (search, False)}
        seconds = take_turns(works, self.xp)
        row["frame_overhead"] = seconds[FRAMES] / seconds[OURS] - 1
        return _add_times(row, seconds[FRAMES], seconds[OURS])

    def _measure_opening(self) -> dict[str, Any]:
        """Seconds to bring the index onto the device, beside a plain copy of its codes and ids."""
        arrays = (self.index.packed_codes, self.index.item_ids)
        n_bytes = sum(array.nbytes for array in arrays)
        opening: dict[str, Any] = {
            "index": self.index.info["catalog"],
            "device_bytes": self.searcher.device_bytes,
            "device_bytes_per_item": self.searcher.device_bytes / self.index.n_items,
            "code_and_id_bytes": n_bytes,
            **self.machine.description,
        }
        if self.machine.is_emulated:
            return opening
        works = {
            "open": (lambda: GpuSearcher(self.index, device=self.machine.device), False),
            "copy": (lambda: [self.xp.asarray(array) for array in arrays], False),
        }
        for name, seconds in take_turns(works, self.xp).items():
            opening[f"{name}_seconds"] = seconds
            opening[f"{name}_bytes_per_second"] = n_bytes / seconds
        return opening


def _graph_backend(searcher: GpuSearcher, batch: int, k: int, n_probes: int) -> Backend:
    """Our search of so many queries, its launches captured once and replayed."""
    captured = searcher.capture(batch, k, n_probes)

    def search(queries: Any, k: int, n_probes: int) -> Any:
        captured.queries[...] = queries
        captured.replay()
        return captured.results

    return Backend(GRAPH, merlin_poeem.__version__, search, _results_on_host)


def _results_on_host(results: Any, k: int) -> Hits:
    return to_host(results.scores), to_host(results.item_ids)


def search_to_host(backend: Backend, queries: Any, k: int, n_probes: int) -> Hits:
    """(scores, item ids), both (n, k) NumPy arrays, of ``queries`` on the device."""
    if not backend.on_device:
        queries = to_host(queries)
    return backend.read(backend.search(queries, k, n_probes), k)


def find_error(index: Index, queries: Float32, got: Hits, expected: Hits) -> str | None:
    """Where the first n queries of ``got`` are not ``expected`` (n, k); None where only by ties.

    At each rank the scores are the same, and an item that is not the expected one has by definition
    the score that it came with.
    """
    got = (got[0][: len(queries)], got[1][: len(queries)])
    missing = got[1] < 0
    if (missing != (expected[1] < 0)).any():
        counts = [(~(ids < 0)).sum(axis=1) for ids in (got[1], expected[1])]
        row = int(np.argmax(counts[0] != counts[1]))
        return f"query {row}: expected {counts[1][row]} results, got {counts[0][row]}"
    scale = float(np.abs(expected[0][~missing]).max(initial=1e-30))
    apart = np.abs(np.where(missing, 0, got[0]) - np.where(missing, 0, expected[0]))
    if apart.max(initial=0) > SCORE_TOLERANCE * scale:
        row, rank = np.unravel_index(apart.argmax(), apart.shape)
        return (
            f"query {row}, rank {rank}: expected score {expected[0][row, rank]}, "
            f"got {got[0][row, rank]}"
        )
    queries_rot = index.quantization.rotate(queries)
    for row in np.flatnonzero((got[1] != expected[1]).any(axis=1)):
        other = got[1][row] != expected[1][row]
        rows = index.rows_of(got[1][row][other])
        held = got[1][row][~missing[row]]
        if (rows < 0).any() or len(np.unique(held)) < len(held):
            return f"query {row}: an id that the index does not hold, or one twice"
        true = reference.item_scores(index, queries_rot[row], rows)
        if np.abs(true - got[0][row][other]).max() > SCORE_TOLERANCE * scale:
            return f"query {row}: an item with the score of another"
    return None


def take_turns(
    works: dict[str, tuple[Callable[[], Any], bool]], xp: ModuleType
) -> dict[str, float]:
    """Median seconds of each of ``works``, (work, whether CUDA events time it), in turns."""
    clocks = {
        name: _event_seconds if events else _wall_seconds for name, (_, events) in works.items()
    }
    rounds = {}
    for name, (work, _) in works.items():
        work()  # compiles, allocates
        estimate = clocks[name](work, xp)
        rounds[name] = int(np.clip(SECONDS_PER_BACKEND / estimate, MIN_ROUNDS, MAX_ROUNDS))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(max(rounds.values(), default=0)):
        for name, (work, _) in works.items():
            if turn < rounds[name]:
                seconds[name].append(clocks[name](work, xp))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _event_seconds(work: Callable[[], Any], xp: ModuleType) -> float:
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(xp.cuda.get_elapsed_time(start, end)) / 1e3


def _wall_seconds(work: Callable[[], Any], xp: ModuleType) -> float:
    xp.cuda.get_current_stream().synchronize()
    started = time.perf_counter()
    work()
    xp.cuda.Device().synchronize()
    return time.perf_counter() - started


def _add_times(row: dict[str, Any], seconds: float | None, ours: float | None) -> dict[str, Any]:
    """``row`` with what follows from its seconds and those of our search of the same batch."""
    row |= dict.fromkeys(("seconds", "queries_per_second", "latency_us", "ratio_to_ours"))
    if seconds is not None and ours is not None:
        row["seconds"] = seconds
        row["queries_per_second"] = row["batch"] / seconds
        row["latency_us"] = seconds * 1e6
        row["ratio_to_ours"] = seconds / ours
    return row


def overlap(got: Hits, expected: Hits) -> float:
    """Share of the expected items that were found, mean over the queries that were judged."""
    relevant = IdLists.from_rows([ids[ids >= 0] for ids in expected[1]])
    found = got[1][: len(relevant)]
    return recall_at_k(found, relevant, found.shape[1])


def _frame_library(xp: ModuleType) -> ModuleType | None:
    """cuDF for arrays on a GPU, pandas where the device is emulated."""
    try:
        if xp is np:
            import pandas

            return pandas
        import cudf

        return cudf
    except ImportError:
        return None


class Results:
    """The rows of this run and of earlier ones, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._document: dict[str, Any] = {"rows": [], "openings": []}
        if path.exists():
            self._document = json.loads(path.read_text())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order they were measured in."""
        return self._document["rows"]

    def settings(self) -> set[Setting]:
        """What was measured, and not found wrong."""
        return {_setting_of(row) for row in self.rows if row["error"] is None}

    def replace(self, setting: Setting, rows: list[dict[str, Any]]) -> None:
        """Put ``rows`` in the place of any of that setting, and save."""
        self.rows[:] = [row for row in self.rows if _setting_of(row) != setting] + rows
        self._save()

    def add_opening(self, opening: dict[str, Any]) -> None:
        """Keep what opening an index took; a later measurement replaces it."""
        openings = self._document["openings"]
        openings[:] = [o for o in openings if o["index"] != opening["index"]] + [opening]
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._document, indent=1))
        os.replace(temporary, self.path)


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


def run(options: argparse.Namespace, machine: Machine, results: Results) -> None:
    """Measure what is not in ``results`` yet, until the time is up."""
    done = results.settings()
    todo = [setting for setting in grid(options) if setting not in done]
    print(f"{len(todo)} settings to measure, {len(done)} already in {results.path}")
    deadline = time.monotonic() + 60 * options.minutes
    advance = _progress(len(todo))
    n_measured = 0
    for of_catalog in _groups(todo, ("kind", "n_items", "dim")):
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
) -> Iterator[tuple[Setting, list[dict[str, Any]]]]:
    """Each setting and its rows, until ``deadline``; all of one catalog, which is opened once."""
    if time.monotonic() > deadline:
        return
    first = settings[0]
    catalog = Catalog(first.kind, first.n_items, first.dim, options.seed)
    opened = OpenCatalog(catalog, machine, max(options.batches), max(options.ks))
    for of_index in _groups(settings, ("code_bytes", "pq_bits", "n_lists")):
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


def _groups(settings: Iterable[Setting], names: tuple[str, ...]) -> Iterator[list[Setting]]:
    """Runs of settings that agree in the fields ``names``."""
    for _, group in itertools.groupby(settings, operator.attrgetter(*names)):
        yield list(group)


def _progress(total: int) -> Callable[[int], Any]:
    if tqdm is None:
        return lambda n: None
    return tqdm(total=total, unit="setting").update


COLUMNS = (
    ("items", lambda r: f"{r['n_items']:,}"),
    ("dim", lambda r: str(r["dim"])),
    ("bytes", lambda r: str(r["code_bytes"])),
    ("lists/probes", lambda r: f"{r['n_lists']}/{r['n_probes']}"),
    ("batch", lambda r: str(r["batch"])),
    ("k", lambda r: str(r["k"])),
    ("backend", lambda r: r["backend"]),
    ("queries/s", lambda r: _number(r["queries_per_second"], ",.0f")),
    ("µs", lambda r: _number(r["latency_us"], ",.1f")),
    ("recall", lambda r: _number(r["recall"], ".4f")),
    ("× our time", lambda r: _number(r["ratio_to_ours"], ".2f")),
    ("of limit", lambda r: _number(r["limit_share"], ".0%")),
    ("path", lambda r: r["path"] or "–"),
)


def line(row: dict[str, Any]) -> str:
    """A row of the table, or what was wrong."""
    text = "  ".join(f"{name} {value(row)}" for name, value in COLUMNS)
    if row["error"]:
        return f"{text}  NOT MEASURED: {row['error']}"
    if row["seconds"] is None:
        return f"{text}  (emulated, not a measurement)"
    return text


def markdown(results: Results) -> str:
    """The measured rows as a table for the documentation, under what they were measured on."""
    rows = [row for row in results.rows if row["error"] is None]
    lines = []
    for machine in dict.fromkeys(
        (r["device"], r["driver"], r["cuda"], r["date"][:10]) for r in rows
    ):
        device, driver, cuda, date = machine
        lines.append(f"{device}, driver {driver}, CUDA {cuda}, {date}")
    versions = dict.fromkeys(f"{row['backend']} {row['peer_version']}" for row in rows)
    lines += ["", "Versions: " + ", ".join(versions) + ".", ""]
    lines.append("| " + " | ".join(name for name, _ in COLUMNS) + " |")
    lines.append("|" + " --- |" * len(COLUMNS))
    lines += ["| " + " | ".join(value(row) for _, value in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)


@contextmanager
def open_machine(emulate: bool) -> Iterator[Machine]:
    """The current GPU, with a CUDA stream of its own current within the block; or the emulation.

    Raises ``ImportError`` without CuPy and ``RuntimeError`` without a GPU.
    """
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if emulate:
        from tests.search.gpu.emulation.device import EmulatedDevice

        yield Machine(
            EmulatedDevice(),
            None,
            {"device": "emulated on the CPU", "driver": "none", "cuda": "none", "date": date},
        )
        return
    device = CupyDevice()
    cuda = device.xp.cuda
    description = {
        "device": device.card.name,
        "driver": _driver_version(),
        "cuda": str(cuda.runtime.runtimeGetVersion()),
        "date": date,
    }
    rates = Rates.of(cuda.Device().attributes, device.card.compute_capability)
    # Not the default stream, which others' streams wait for, and which peers take for "none".
    with cuda.Stream(non_blocking=True):
        yield Machine(device, rates, description)


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found[0] if found else "unknown"


def _setting_of(row: dict[str, Any]) -> Setting:
    return Setting(**{field.name: row[field.name] for field in fields(Setting)})


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; those that --quick and --emulate shrink may still be named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-items", type=int, nargs="+", default=[570_000, 4_300_000])
    parser.add_argument("--large", action="store_true", help="20M items as well")
    parser.add_argument("--kind", choices=KINDS, default="clustered")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--code-bytes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--pq-bits", type=int, choices=(4, 8), default=8)
    parser.add_argument("--n-lists", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--n-probes", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 1024, 16384])
    parser.add_argument("--ks", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--quick", action="store_true", help="one small index, few settings")
    parser.add_argument("--emulate", action="store_true", help="tiny, on the CPU; measures nothing")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("results/indexes"), help="indexes kept")
    parser.add_argument("--results", type=Path, help="default: results/search_gpu.json")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    options = parser.parse_args(arguments)
    named = vars(options)
    shrunk = EMULATED_SIZES if options.emulate else QUICK_SIZES if options.quick else {}
    named.update({axis: v for axis, v in shrunk.items() if named[axis] == parser.get_default(axis)})
    if options.large:
        options.n_items = [*options.n_items, 20_000_000]
    if options.results is None:
        name = "search_gpu_emulated.json" if options.emulate else "search_gpu.json"
        options.results = Path("results") / name
    return options


QUICK_SIZES: dict[str, Any] = {
    "n_items": [570_000],
    "dims": [64],
    "code_bytes": [16],
    "n_lists": [1024],
    "n_probes": [8],
    "batches": [1, 1024],
    "ks": [100],
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


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    options = parse(arguments)
    results = Results(options.results)
    if options.emulate:
        print("emulated, not a measurement: no times, and no queries/s")
    with open_machine(options.emulate) as machine:
        run(options, machine, results)
    if options.markdown is not None:
        options.markdown.write_text(markdown(results))
        print(f"table written to {options.markdown}")


if __name__ == "__main__":
    main()
