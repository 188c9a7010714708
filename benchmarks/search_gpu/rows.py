"""A row of the results: one setting, searched by one backend."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.search_gpu.backend import Backend
from benchmarks.search_gpu.grid import Setting
from benchmarks.search_gpu.machine import Machine
from merlin_poeem.search.gpu.searcher import GpuSearcher

Row = dict[str, Any]


def start_row(backend: Backend, setting: Setting, searcher: GpuSearcher, machine: Machine) -> Row:
    """What is known of a row before anything is measured."""
    plan = asdict(searcher.plan(setting.batch, setting.k, setting.n_probes))
    is_ours = backend.peer is None
    return {
        "backend": backend.name,
        "peer": backend.peer,
        "peer_version": backend.version,
        **asdict(setting),
        "pq_dim": searcher.index.params.pq_dim,
        "recall": None,
        "agreement": None,
        "error": None,
        "note": backend.note,
        "path": plan["path"] if is_ours else None,
        "plan": plan if is_ours else None,
        "limit_share": None,
        "frame_overhead": None,
        **machine.description,
    }


def add_times(row: Row, seconds: float | None, ours: float | None) -> Row:
    """``row`` with what follows from its seconds and those of our search of the same batch."""
    row |= dict.fromkeys(("seconds", "queries_per_second", "latency_us", "ratio_to_ours"))
    if seconds is not None and ours is not None:
        row["seconds"] = seconds
        row["queries_per_second"] = row["batch"] / seconds
        row["latency_us"] = seconds * 1e6
        row["ratio_to_ours"] = seconds / ours
    return row
