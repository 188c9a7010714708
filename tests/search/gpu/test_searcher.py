"""The GPU searcher beyond what every backend shares: sizes, plans, what opening it needs."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from merlin_poeem import Index, open_searcher
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search import searcher as search
from merlin_poeem.search.gpu import presence
from merlin_poeem.search.gpu import searcher as gpu
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_queries,
)
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.device import ORDERS, EmulatedDevice
from tests.search.gpu.openers import (
    ReplannedSearcher,
    needs_compiler,
    open_emulated,
)


@needs_compiler
@pytest.mark.parametrize("layout", ["spread", "compact"])
@pytest.mark.parametrize("code_bytes", [8, 12, 24, 32, 36, 64])
def test_every_kind_of_segment(code_bytes: int, layout: str) -> None:
    for metric, n_missing in (("l2", 0), ("inner_product", 3)):
        index = random_index(metric, pq_dim=code_bytes - n_missing, pq_len=1)
        changes = {"lut_layout": layout, "captured_batch": None}
        searcher = ReplannedSearcher(index, EmulatedDevice("random"), **changes)
        queries = random_queries(index, 5)
        assert_answers(index, searcher.search(queries, k=20), queries, k=20)


@needs_compiler
@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize(("n_lists", "n_probes"), [(300, 150), (300, 300), (4200, 4150)])
def test_many_lists(n_lists: int, n_probes: int, n_parts: int) -> None:
    index = random_index(n_items=4000, n_lists=n_lists)
    queries = random_queries(index, 3)
    changes = {"n_parts": n_parts, "captured_batch": None}
    searcher = ReplannedSearcher(index, EmulatedDevice("random"), **changes)
    assert searcher.plan(3, 10, n_probes).sorts_probes == (n_probes <= 4096)
    search = {"k": 300, "n_probes": n_probes}
    assert_answers(index, searcher.search(queries, **search), queries, **search)


@needs_compiler
def test_k_up_to_the_limit() -> None:
    index = random_index(n_items=3000)
    queries, searcher = random_queries(index, 2), open_emulated(index)
    for k in (2047, 2048):
        got = searcher.search(queries, k=k, n_probes=8)
        assert_answers(index, got, queries, k=k, n_probes=8)
    for call in (
        lambda: searcher.search(queries, k=2049),
        lambda: searcher.search_padded(queries, k=2049),
        lambda: searcher.plan(2, 2049),
        lambda: searcher.capture(2, 2049),
    ):
        with pytest.raises(ValueError, match="k: expected at most 2048 on the GPU, got 2049"):
            call()


def test_k_may_exceed_the_items(searcher: GpuSearcher) -> None:
    queries = random_queries(searcher.index, 2)
    got = searcher.search(queries, k=10**6, n_probes=8)
    assert got.counts.tolist() == [400, 400]
    assert_answers(searcher.index, got, queries, k=10**6, n_probes=8)


@needs_compiler
@pytest.mark.parametrize("n_parts", [1, 2, 5])
def test_ties_at_k_come_by_id_from_every_part(n_parts: int) -> None:
    # Codes of the vectors themselves: the same code scores the same in every list.
    index = random_index(n_items=2000, n_repeated=1900, encodes_residual=False)
    queries = random_queries(index, 3)
    for order in ORDERS:
        changes = {"n_parts": n_parts, "captured_batch": None}
        searcher = ReplannedSearcher(index, EmulatedDevice(order), **changes)
        for k in (50, 380):
            found = searcher.search(queries, k=k, n_probes=8)
            assert_answers(index, found, queries, k=k, n_probes=8)
            for i in range(3):
                scores, item_ids = found[i]
                assert (np.diff(item_ids)[np.diff(scores) == 0] > 0).all()


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
def test_every_order_and_plan_gives_the_same_bits(metric: str) -> None:
    index = random_index(metric, n_items=1500, pq_dim=12, pq_len=2, n_repeated=600)
    queries = random_queries(index, 6)
    search = {"k": 200, "n_probes": 7, "exclude": random_id_lists(index, 6, 100)}
    expected = open_emulated(index).search(queries, **search)
    for order in ORDERS:
        for changes in (
            {},
            {"n_parts": 4, "chunk": 5, "sorts_probes": False},
            {"lut_layout": "compact", "n_parts": 2},
        ):
            searcher = ReplannedSearcher(index, EmulatedDevice(order, seed=3), **changes)
            assert_same(searcher.search(queries, **search), expected)


def fake_cupy(monkeypatch: pytest.MonkeyPatch, count: Callable[[], int]) -> None:
    """CuPy that counts GPUs so; None: not installed."""
    error = type("CUDARuntimeError", (RuntimeError,), {})
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=SimpleNamespace(getDeviceCount=lambda: count(error), CUDARuntimeError=error)
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def no_driver(error: Any) -> int:
    raise error("cudaErrorNoDevice: no CUDA-capable device is detected")


LACKS = {
    "no CuPy": (
        None,
        ImportError,
        r"gpu needs cupy, .* pip install 'cupy-cuda13x",
    ),
    "no driver": (
        no_driver,
        RuntimeError,
        "gpu needs an NVIDIA GPU; CUDA finds none .cudaErrorNoDevice",
    ),
    "no GPU": (lambda error: 0, RuntimeError, "gpu needs an NVIDIA GPU; CUDA finds none$"),
}


@pytest.mark.parametrize("lack", LACKS)
def test_gpu_that_is_not_there(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lack: str
) -> None:
    count, error, message = LACKS[lack]
    if count is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        fake_cupy(monkeypatch, count)
    with pytest.raises(error, match=message):
        open_searcher(index, "gpu")
    with caplog.at_level(logging.INFO, "merlin_poeem"):
        searcher = open_searcher(index)
    assert searcher.backend == "faiss"
    assert caplog.messages[-1].startswith("search backend: faiss, not gpu: backend: gpu")
    assert caplog.records[-1].levelname == "INFO"


def test_a_gpu_that_is_not_used_is_a_warning_once(
    index: Index,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(presence, "DEVICES", tmp_path)
    monkeypatch.setattr(search, "_told_of_idle_gpu", Event())
    monkeypatch.setitem(sys.modules, "cupy", None)
    with caplog.at_level(logging.INFO, "merlin_poeem"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        open_searcher(index)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        open_searcher(index)
        open_searcher(index)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert "faiss, not gpu: backend: gpu needs cupy" in caplog.messages[1]


@pytest.mark.parametrize("name", ["nvidiactl", "nvidia-uvm"])
def test_a_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(presence, "DEVICES", tmp_path)
    (tmp_path / name).touch()
    assert not presence.has_visible_gpu()


def test_auto_finds_neither(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cupy", "faiss"):
        monkeypatch.setitem(sys.modules, name, None)
    message = r"needs faiss, .* tried the GPU: backend: gpu needs cupy, .* backend='reference'"
    with pytest.raises(ImportError, match=message):
        open_searcher(index)


@needs_compiler
def test_auto_takes_the_gpu_that_is_there(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu, "CupyDevice", EmulatedDevice)
    with caplog.at_level(logging.INFO, "merlin_poeem"):
        assert open_searcher(index).backend == "gpu"
        assert caplog.messages[-1] == "search backend: gpu"
        monkeypatch.setattr(search, "_told_of_idle_gpu", Event())
        too_wide = random_index(pq_bits=12)
        assert open_searcher(too_wide).backend == "faiss"
        assert caplog.records[-1].levelname == "WARNING"
        assert "faiss, not gpu: pq_bits: expected at most 8" in caplog.messages[-1]
        monkeypatch.setattr(gpu, "CupyDevice", lambda: EmulatedDevice(free_bytes=1000))
        assert open_searcher(index).backend == "faiss"
        assert "faiss, not gpu: index: expected at most 1000 bytes" in caplog.messages[-1]


def test_unknown_backend(index: Index) -> None:
    with pytest.raises(ValueError, match="one of gpu, faiss, reference, auto; got 'cuda'"):
        open_searcher(index, "cuda")
