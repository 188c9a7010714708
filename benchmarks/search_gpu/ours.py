"""Our GPU search as backends: called each time, and recorded once as a CUDA graph."""

from __future__ import annotations

from typing import Any

import merlin_poeem
from benchmarks.search_gpu.backend import Backend, Hits
from benchmarks.search_gpu.machine import Machine
from merlin_poeem import Index
from merlin_poeem.arrays import to_host
from merlin_poeem.search.gpu.searcher import GpuSearcher

OURS = "gpu"
GRAPH = "gpu (graph)"


def open_ours(index: Index, machine: Machine) -> GpuSearcher:
    """Our searcher on the machine's device."""
    return GpuSearcher(index, device=machine.device)


def our_backend(searcher: GpuSearcher) -> Backend:
    """Our search, without waiting for it."""
    return Backend(
        OURS,
        merlin_poeem.__version__,
        lambda queries, k, n_probes: searcher.search_padded(queries, k=k, n_probes=n_probes),
        _read_results,
    )


def graph_backend(searcher: GpuSearcher, batch: int, k: int, n_probes: int) -> Backend:
    """Our search of so many queries, its launches captured once and replayed."""
    captured = searcher.capture(batch, k, n_probes)

    def search(queries: Any, k: int, n_probes: int) -> Any:
        captured.queries[...] = queries
        captured.replay()
        return captured.results

    return Backend(GRAPH, merlin_poeem.__version__, search, _read_results)


def _read_results(results: Any, k: int) -> Hits:
    return to_host(results.scores), to_host(results.item_ids)
