"""One index, opened by everything that is to be measured on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.search_gpu.answers import find_error, overlap
from benchmarks.search_gpu.backend import SMALL_BATCH, Backend, Hits, first_line
from benchmarks.search_gpu.frames import FRAME_BATCH, FRAMES, frames_row
from benchmarks.search_gpu.grid import Setting
from benchmarks.search_gpu.judge import open_judge
from benchmarks.search_gpu.limits import Work, limit_seconds
from benchmarks.search_gpu.open_catalog import OpenCatalog
from benchmarks.search_gpu.opening import measure_opening
from benchmarks.search_gpu.ours import GRAPH, OURS, graph_backend, open_ours, our_backend
from benchmarks.search_gpu.peers import open_index_peers
from benchmarks.search_gpu.rows import Row, add_times, start_row
from benchmarks.search_gpu.timing import take_turns
from merlin_poeem import Index
from merlin_poeem.arrays import to_host
from merlin_poeem.evaluate import items_scanned


class Session:
    """One index, opened by everything that is to be measured on it."""

    def __init__(self, opened: OpenCatalog, index: Index, folder: Path) -> None:
        self.opened, self.index, self.machine = opened, index, opened.machine
        self.searcher = open_ours(index, self.machine)
        self.opening = measure_opening(self.searcher, self.machine)
        self._ours = our_backend(self.searcher)
        self._peers = open_index_peers(opened.material, index, folder) + opened.exact_peers
        self._judge, self._n_judged = open_judge(index)
        self._recalls: dict[tuple[str, int, int], float] = {}

    def measure(self, setting: Setting) -> list[Row]:
        """A row per backend. Where our answers are wrong: one row that says so, with no times."""
        queries = self.opened.query_sets[0][: setting.batch]
        judged = queries[: self._n_judged]
        expected = self._judge.search_to_host(judged, setting.k, setting.n_probes)
        backends, rows = [], {}
        for backend in self._backends(setting):
            row = self._judged_row(backend, setting, queries, expected)
            if row is None:
                continue
            if row["error"]:
                return [add_times(row, None, None)]
            backends.append(backend)
            rows[backend.name] = row
        seconds = self._seconds(backends, setting)
        for name, row in rows.items():
            add_times(row, seconds[name], seconds[OURS])
            if row["peer"] is None:
                row["limit_share"] = self._limit_share(setting, row["path"], seconds[name])
        if setting.batch >= FRAME_BATCH or self.machine.is_emulated:
            rows[FRAMES] = frames_row(self.searcher, setting, queries, self.machine)
        return list(rows.values())

    def _backends(self, setting: Setting) -> list[Backend]:
        ours = [self._ours]
        if setting.batch <= SMALL_BATCH:
            ours.append(graph_backend(self.searcher, setting.batch, setting.k, setting.n_probes))
        return ours + [peer for peer in self._peers if peer.takes(setting.batch)]

    def _judged_row(
        self, backend: Backend, setting: Setting, queries: Any, expected: Hits
    ) -> Row | None:
        """A row without its times; None, and a printed line, where a peer cannot search this.

        ``expected`` are the hits of the first ``queries``.
        """
        k, n_probes = setting.k, setting.n_probes
        try:
            hits = backend.search_to_host(queries, k, n_probes)
            recall = self._recall(backend, k, n_probes)
        except Exception as error:  # peers raise what they like where they have no kernel
            if backend.peer is None:
                raise
            print(f"missing: {backend.name} at batch {setting.batch}, k {k}: {first_line(error)}")
            return None
        row = start_row(backend, setting, self.searcher, self.machine) | {"recall": recall}
        row["agreement"] = None if backend.is_exact else overlap(hits, expected)
        if backend.peer is None:
            row["error"] = find_error(
                self.index, to_host(queries[: self._n_judged]), hits, expected
            )
        return row

    def _recall(self, backend: Backend, k: int, n_probes: int) -> float:
        """The same for every batch, and for a captured search as for one that is not."""
        if backend.is_exact:
            return self.opened.recall(backend, k, n_probes)
        chosen = self._ours if backend.name == GRAPH else backend
        key = (chosen.name, k, n_probes)
        if key not in self._recalls:
            self._recalls[key] = self.opened.recall(chosen, k, n_probes)
        return self._recalls[key]

    def _seconds(self, backends: list[Backend], setting: Setting) -> dict[str, float | None]:
        """Median seconds of a search by each backend, None where there is no card."""
        if self.machine.is_emulated:
            return {backend.name: None for backend in backends}
        batch, k = setting.batch, setting.k
        known = self.opened.exact_seconds
        timed = [b for b in backends if (b.name, batch, k) not in known]
        works = {b.name: (self._turns(b, setting), b.on_device) for b in timed}
        seconds = take_turns(works, self.machine.xp)
        known |= {(b.name, batch, k): seconds[b.name] for b in timed if b.is_exact}
        return {b.name: known.get((b.name, batch, k), seconds.get(b.name)) for b in backends}

    def _turns(self, backend: Backend, setting: Setting) -> Callable[[], Any]:
        """A search of the next batch each time it is called."""
        batches = [queries[: setting.batch] for queries in self.opened.query_sets]
        if not backend.on_device:
            batches = [to_host(queries) for queries in batches]
        in_turn = itertools.cycle(batches)
        return lambda: backend.search(next(in_turn), setting.k, setting.n_probes)

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
