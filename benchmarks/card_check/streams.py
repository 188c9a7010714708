"""Step: queries of other libraries, other streams, two threads, frames."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from benchmarks.card_check.checks import Checks, Skipped
from benchmarks.card_check.indexes import N_PROBES, queries_of, small_index
from benchmarks.card_check.ways import WAYS
from merlin_poeem import search_frame
from merlin_poeem.arrays import to_host
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import assert_answers
from tests.search.gpu.openers import DlpackAlone

K, ROUNDS = 10, 20
EMULATED_ROUNDS = 2


def run(checks: Checks) -> None:
    """Each a line."""
    named: dict[str, Callable[[], dict[str, Any]]] = {
        "two threads, a stream each": partial(_two_threads, checks, "graph"),
        "two threads, a stream each: bulk": partial(_two_threads, checks, "bulk"),
        "two threads, one stream": partial(_two_threads, checks, "graph", own_streams=False),
        "another stream": partial(_another_stream, checks),
        "streams in turns": partial(_streams_in_turns, checks),
        "per-thread default stream": partial(_per_thread_stream, checks),
        "torch queries": partial(_torch_queries, checks, side_stream=False),
        "torch queries, torch's stream": partial(_torch_queries, checks, side_stream=True),
        "DLPack alone": partial(_dlpack_queries, checks),
        "frames": partial(_frames, checks),
    }
    for name, work in named.items():
        checks.run(name, work)


def _open(checks: Checks, way: str = "graph") -> GpuSearcher:
    return WAYS[way](small_index(), checks.device)


def _needs_card(checks: Checks) -> Any:
    """CuPy."""
    if checks.emulate:
        raise Skipped("needs a card")
    return checks.device.xp


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Skipped(f"missing: {name} ({error})") from error


def _stream(checks: Checks, own: bool) -> AbstractContextManager[Any]:
    if checks.emulate or not own:
        return nullcontext()
    stream: AbstractContextManager[Any] = checks.device.xp.cuda.Stream(non_blocking=True)
    return stream


def _two_threads(checks: Checks, way: str, own_streams: bool = True) -> dict[str, Any]:
    searcher = _open(checks, way)
    batches = [queries_of(searcher.index, n) for n in (3, 20)]
    rounds = EMULATED_ROUNDS if checks.emulate else ROUNDS
    expected = [searcher.search(queries, k=K) for queries in batches]

    def search_on_own_stream(queries: Any) -> list[Any]:
        with _stream(checks, own_streams):
            return [searcher.search(queries, k=K) for _ in range(rounds)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(search_on_own_stream, batches))
    for candidates, right in zip(found, expected, strict=True):
        for each in candidates:
            np.testing.assert_array_equal(each.item_ids, right.item_ids)
    return {}


def _check_on_device(searcher: GpuSearcher, queries: Any, host_queries: Any) -> None:
    got = searcher.search(queries, k=K).to_host()
    assert_answers(searcher.index, got, host_queries, k=K, n_probes=N_PROBES)


def _another_stream(checks: Checks) -> dict[str, Any]:
    xp = _needs_card(checks)
    for way in ("graph", "scan", "bulk"):
        searcher = _open(checks, way)
        queries = queries_of(searcher.index, 12)
        with xp.cuda.Stream(non_blocking=True):
            _check_on_device(searcher, xp.asarray(queries), queries)
    return {}


def _streams_in_turns(checks: Checks) -> dict[str, Any]:
    """Launched on several streams before any is waited for."""
    xp = _needs_card(checks)
    searcher = _open(checks)
    streams = [xp.cuda.Stream(non_blocking=True) for _ in range(12)]  # more than are kept
    host = [queries_of(searcher.index, n + 1) for n in range(len(streams))]
    for _ in range(3):
        found = []
        for stream, queries in zip(streams, host, strict=True):
            with stream:
                found.append(searcher.search_padded(xp.asarray(queries), k=K))
        for stream, queries, results in zip(streams, host, found, strict=True):
            stream.synchronize()
            expected = searcher.search(queries, k=K).padded(K, fill_id=-1)[1]
            np.testing.assert_array_equal(to_host(results.item_ids), expected)
    return {}


def _per_thread_stream(checks: Checks) -> dict[str, Any]:
    xp = _needs_card(checks)
    searcher = _open(checks)
    queries = queries_of(searcher.index, 12)
    with xp.cuda.Stream.ptds:
        _check_on_device(searcher, xp.asarray(queries), queries)
    return {}


def _torch_queries(checks: Checks, *, side_stream: bool) -> dict[str, Any]:
    xp = _needs_card(checks)
    torch = _import("torch")
    searcher = _open(checks)
    queries = queries_of(searcher.index, 12)
    if not side_stream:
        _check_on_device(searcher, torch.from_numpy(queries).cuda(), queries)
        return {"torch": torch.__version__}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), xp.cuda.ExternalStream(stream.cuda_stream):
        # Work of Torch's right before it, for which the search must not have to be told to wait.
        made = torch.from_numpy(queries).cuda(non_blocking=True) * 2 - torch.from_numpy(
            queries
        ).cuda(non_blocking=True)
        _check_on_device(searcher, made, queries)
    return {"torch": torch.__version__}


def _dlpack_queries(checks: Checks) -> dict[str, Any]:
    xp = _needs_card(checks)
    searcher = _open(checks)
    queries = queries_of(searcher.index, 12)
    _check_on_device(searcher, DlpackAlone(xp.asarray(queries)), queries)
    return {}


def _frames(checks: Checks) -> dict[str, Any]:
    """cuDF's on a card, pandas' where it is emulated: one row of results a query and rank."""
    library = _import("pandas" if checks.emulate else "cudf")
    searcher = _open(checks)
    queries = queries_of(searcher.index, 6)
    names = [f"v{j}" for j in range(queries.shape[1])]
    frame = library.DataFrame({name: queries[:, j] for j, name in enumerate(names)})
    found = search_frame(searcher, frame, vectors=names, k=K, n_probes=N_PROBES)
    found = found.to_pandas() if hasattr(found, "to_pandas") else found
    expected = searcher.search(queries, k=K)
    item_ids = found["item_id"].to_numpy()
    if item_ids.dtype == object:
        item_ids = np.concatenate([np.asarray(ids) for ids in item_ids])
    np.testing.assert_array_equal(item_ids, expected.item_ids)
    return {"library": f"{library.__name__} {library.__version__}"}
