"""Step: how long a search takes, kernel by kernel, beside its recall and what the card could do."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.card_check.checks import Checks, Skipped
from benchmarks.card_check.opened import Opened
from benchmarks.card_check.points import (
    CHUNK_BATCH,
    CHUNK_PROBES,
    CHUNKS,
    EMULATED_POINTS,
    FIT_BATCH,
    FIT_K,
    FIT_PROBES,
    LARGE,
    POINTS,
    Point,
    Size,
)
from benchmarks.card_check.timed_device import TimedDevice
from benchmarks.search_gpu.limits import Rates, limit_seconds
from benchmarks.search_gpu.timing import take_turns
from merlin_poeem.search.gpu.captured_search import CapturedSearch
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.search.gpu.openers import ReplannedSearcher

HOST_CALLS, KERNEL_ROUNDS, REPLAYS = 30, 5, 50


def run(checks: Checks) -> None:
    """The points of each size; then time over probes and over chunks."""
    if checks.emulate:
        _Timings(checks, EMULATED_POINTS).run()
        return
    # Not the default stream, which others' streams wait for.
    with checks.device.xp.cuda.Stream(non_blocking=True):
        _Timings(checks, POINTS).run()


class _Timings:
    def __init__(self, checks: Checks, points: dict[Size, list[Point]]) -> None:
        self.checks, self._points = checks, points
        self._device = checks.device
        self._timed_device = TimedDevice(self._device)

    def run(self) -> None:
        for size, points in self._points.items():
            name = f"{size.n_items:,} items"
            opened = self._opened(size)
            self.checks.run(f"{name}: made and coded", partial(self._make, opened), limit=60)
            for point in points:
                work = partial(self._measure, opened, point)
                self.checks.run(f"{name}: {point}", work, limit=60)
            if size == LARGE or self.checks.emulate:
                self.checks.run(f"{name}: time over probes", partial(self._fit, opened), limit=60)
                self.checks.run(f"{name}: chunks", partial(self._chunks, opened), limit=60)
            self._opened.cache_clear()

    @cache  # noqa: B019  one object a process
    def _opened(self, size: Size) -> Opened:
        return Opened(self._device, size, max(point.batch for point in self._points[size]))

    def _make(self, opened: Opened) -> dict[str, Any]:
        started = time.perf_counter()
        vectors = opened.catalog.vectors
        self._device.synchronize()
        made = time.perf_counter()
        sizes = opened.index.list_sizes
        return {
            "status": "measured",
            "vector_seconds": made - started,
            "index_seconds": time.perf_counter() - made,
            "vector_bytes": vectors.nbytes,
            "list_variation": float(sizes.std() / sizes.mean()),
            "largest_list": int(sizes.max()),
        }

    def _measure(self, opened: Opened, point: Point) -> dict[str, Any]:
        searcher = opened.searcher(point.way, with_vectors=point.refine > 0)
        plan = searcher.plan(point.batch, point.k, point.n_probes, refine=point.refine)
        if point.way == "bulk" and plan.path != "bulk":
            raise Skipped("no bulk plan for this card and search")
        kept: dict[str, Any] = {
            "status": "measured",
            **vars(opened.size),
            **vars(point),
            "path": plan.path,
            "plan": asdict(plan),
            **opened.judge(searcher, point),
        }
        if kept["error"]:
            return kept | {"status": "failed"}
        kept |= self._seconds(opened, searcher, point, plan.path)
        kept["kernels"] = self._kernels(opened, point)
        return kept

    def _seconds(
        self, opened: Opened, searcher: GpuSearcher, point: Point, path: str
    ) -> dict[str, Any]:
        """Of the card, of the host, and of a captured search."""
        if self.checks.emulate:
            return dict.fromkeys(("seconds", "host_seconds", "graph_seconds", "limit_share"))
        xp = self._device.xp
        batches = itertools.cycle([queries[: point.batch] for queries in opened.query_sets])
        k, n_probes, refine = point.k, point.n_probes, point.refine

        def search() -> Any:
            return searcher.search_padded(next(batches), k=k, n_probes=n_probes, refine=refine)

        seconds = take_turns({"search": (search, True)}, xp)["search"]
        replay_seconds = None
        if searcher.plan(point.batch, k, n_probes, refine=refine).captured_batch is not None:
            captured = searcher.capture(point.batch, k, n_probes, refine=refine)
            captured.queries[...] = next(batches)
            replay_seconds = self._replay_seconds(captured)
        rates = Rates.of(xp.cuda.Device().attributes, self._device.card.compute_capability)
        work = opened.work(point.batch, k, n_probes)
        least = limit_seconds(work, rates, "bulk" if path == "bulk" else "scan")
        return {
            "seconds": seconds,
            "graph_seconds": replay_seconds,
            "host_seconds": self._host_seconds(search),
            "limit_seconds": least,
            # The model knows no second look.
            "limit_share": None if refine else least / seconds,
            "queries_per_second": point.batch / seconds,
        }

    def _replay_seconds(self, captured: CapturedSearch) -> float:
        """Of the card for one replay among many, so that it never waits for the host."""
        xp = self._device.xp
        start, end = xp.cuda.Event(), xp.cuda.Event()
        captured.replay()
        start.record()
        for _ in range(REPLAYS):
            captured.replay()
        end.record()
        end.synchronize()
        return float(xp.cuda.get_elapsed_time(start, end)) / 1e3 / REPLAYS

    def _host_seconds(self, search: Any) -> float:
        """What the host does for a search, without waiting for the card."""
        self._device.synchronize()
        each = []
        for _ in range(HOST_CALLS):
            started = time.perf_counter()
            search()
            each.append(time.perf_counter() - started)
        self._device.synchronize()
        return statistics.median(each)

    def _kernels(self, opened: Opened, point: Point) -> dict[str, Any]:
        """Seconds of each kernel of an uncaptured search, the median."""
        way, with_vectors = point.way, point.refine > 0
        if way == "planned":
            searcher = opened.searcher("planned", with_vectors=with_vectors)
            way = searcher.plan(point.batch, point.k, point.n_probes, refine=point.refine).path
        searcher = opened.searcher(way, self._timed_device, with_vectors=with_vectors)
        return self._kernel_seconds(searcher, opened, point)

    def _kernel_seconds(
        self, searcher: GpuSearcher, opened: Opened, point: Point
    ) -> dict[str, Any]:
        device = self._timed_device
        rounds = []
        for turn in range(1 if self.checks.emulate else KERNEL_ROUNDS + 1):
            device.take()
            queries = opened.query_sets[turn % len(opened.query_sets)][: point.batch]
            whole = device.event()
            searcher.search_padded(queries, k=point.k, n_probes=point.n_probes, refine=point.refine)
            rounds.append({"whole search": device.seconds_since(whole), **device.take()})
        last = rounds[1:] or rounds  # the first one compiles
        names = dict.fromkeys(name for each in last for name in each)
        return {name: _median([each.get(name) for each in last]) for name in names}

    def _fit(self, opened: Opened) -> dict[str, Any]:
        """Seconds of the scan as a + b times the items that are scanned."""
        searcher = opened.searcher("scan", self._timed_device)
        batch = min(FIT_BATCH, len(opened.query_sets[0]))
        k = min(FIT_K, opened.size.n_items)
        items, seconds = [], []
        for n_probes in FIT_PROBES:
            if n_probes > opened.size.n_lists:
                continue
            kernels = self._kernel_seconds(searcher, opened, Point(batch, n_probes, k))
            of_scan = [value for name, value in kernels.items() if name.startswith("scan<")]
            items.append(batch * opened.items_scanned(n_probes))
            seconds.append(sum(of_scan) if None not in of_scan else None)
        kept = {"status": "measured", "items": items, "scan_seconds": seconds}
        if None in seconds:
            return kept
        b, a = np.polyfit(items, np.asarray(seconds, float), 1)
        return kept | {"a_seconds": a, "b_seconds_per_item": b, "batch": batch, "k": k}

    def _chunks(self, opened: Opened) -> dict[str, Any]:
        """Seconds of a large batch by the size of its chunks."""
        largest = len(opened.query_sets[0])
        batch, k = min(CHUNK_BATCH, largest), min(FIT_K, opened.size.n_items)
        n_probes = min(CHUNK_PROBES, opened.size.n_lists)
        works: dict[str, Any] = {}
        for chunk in [5] if self.checks.emulate else CHUNKS:
            changes = {"chunk": chunk, "captured_batch": None}
            searcher = ReplannedSearcher(opened.index, self._device, **changes)
            batches = itertools.cycle([queries[:batch] for queries in opened.query_sets])
            works[str(chunk)] = (partial(_search_next, searcher, batches, k, n_probes), True)
        if self.checks.emulate:
            for work, _ in works.values():
                work()
            return {"status": "measured", "chunk_seconds": dict.fromkeys(works)}
        seconds = take_turns(works, self._device.xp)
        return {"status": "measured", "batch": batch, "chunk_seconds": seconds}


def _search_next(searcher: GpuSearcher, batches: Any, k: int, n_probes: int) -> Any:
    return searcher.search_padded(next(batches), k=k, n_probes=n_probes)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
