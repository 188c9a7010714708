"""Peers of the GPU benchmark, by stand-ins: cuVS' settings, frames, and equal recall."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.device_catalogs import DeviceCatalog, build_device_index
from benchmarks.search_gpu import frames
from benchmarks.search_gpu.cuvs_peers import VARIANTS, open_cuvs_brute_force, open_cuvs_ivf_pq
from benchmarks.search_gpu.equal_recall import equal_recall, equal_recall_table
from benchmarks.search_gpu.judge import open_judge
from benchmarks.search_gpu.material import Material
from benchmarks.search_gpu.memory_pool import use_memory_pool
from benchmarks.search_gpu.peers import open_index_peers
from merlin_poeem import Index
from merlin_poeem.search import reference
from tests.benchmarks.cuvs_stand_in import CuvsStandIn, OldSearchParams, make_rmm

pytestmark = pytest.mark.once

K, N_PROBES = 5, 4


class NumpyAsCupy(ModuleType):
    """NumPy under CuPy's name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.fixture(scope="module")
def catalog() -> DeviceCatalog:
    return DeviceCatalog(np, "clustered", 900, 16)


@pytest.fixture(scope="module")
def index(catalog: DeviceCatalog) -> Index:
    return build_device_index(catalog, code_bytes=4, n_lists=8)


@pytest.fixture
def material(catalog: DeviceCatalog) -> Material:
    return Material(catalog, catalog.vectors, NumpyAsCupy("cupy"), 7)


def install(monkeypatch: pytest.MonkeyPatch, modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("refuses", "calls", "note"),
    [
        ((), ["load"], "our codes"),
        (
            ("load",),
            ["load", "build_precomputed", "extend"],
            "our centroids and codebook, codes by cuVS, as it refused: load is refused",
        ),
        (
            ("load", "extend"),
            ["load", "build_precomputed", "extend", "build"],
            "built by cuVS, as it refused: extend is refused",
        ),
    ],
)
def test_cuvs_takes_what_it_can(
    index: Index,
    material: Material,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    refuses: tuple[str, ...],
    calls: list[str],
    note: str,
) -> None:
    stand_in = CuvsStandIn(index, *refuses)
    rmm = make_rmm()
    install(monkeypatch, {**stand_in.modules(), "rmm": rmm})
    backends = open_cuvs_ivf_pq(material, index, tmp_path)
    assert stand_in.calls == calls
    assert [backend.name for backend in backends] == list(VARIANTS)
    assert {backend.note for backend in backends} == {note}
    assert isinstance(rmm.mr.current, rmm.mr.CudaAsyncMemoryResource)
    assert not list(tmp_path.iterdir())
    if "build" not in calls:
        queries = material.catalog.queries(3)
        found = backends[-1].search_to_host(queries, K, N_PROBES)
        right = reference.search(index, queries, k=K, n_probes=N_PROBES)
        np.testing.assert_array_equal(found[1].ravel(), right.item_ids)


def test_an_old_cuvs_has_fewer_settings(
    index: Index,
    material: Material,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in = CuvsStandIn(index, search_params=OldSearchParams)
    install(monkeypatch, {**stand_in.modules(), "rmm": make_rmm()})
    backends = open_cuvs_ivf_pq(material, index, tmp_path)
    assert [backend.name for backend in backends] == list(VARIANTS)[:3]
    assert "missing: cuvs ivf_pq (all fp16): " in capsys.readouterr().out


def test_a_cuvs_that_takes_nothing_is_missing(
    index: Index,
    material: Material,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in = CuvsStandIn(index, "load", "build_precomputed", "build")
    install(monkeypatch, {**stand_in.modules(), "rmm": make_rmm()})
    peers = open_index_peers(material, index, tmp_path)
    assert not any(peer.peer == "cuvs" for peer in peers)
    printed = capsys.readouterr().out
    assert "missing: cuvs ivf_pq: nothing of ours was taken, as it refused: build is" in printed


def test_cuvs_brute_force_in_both_precisions(
    index: Index, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, {**CuvsStandIn(index).modules(), "rmm": make_rmm()})
    queries = material.catalog.queries(6)
    exact = np.argsort(-(queries @ material.vectors.T), axis=1)[:, :K]
    for backend, least in zip(open_cuvs_brute_force(material), (1, 0.9), strict=True):
        item_ids = backend.search_to_host(queries, K, N_PROBES)[1]
        assert (item_ids == material.catalog.item_ids(exact)).mean() >= least, backend.name


def test_a_pool_is_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rmm = make_rmm()
    monkeypatch.setitem(sys.modules, "rmm", rmm)
    use_memory_pool()
    use_memory_pool()
    assert rmm.mr.n_set == 1
    monkeypatch.setitem(sys.modules, "rmm", None)
    use_memory_pool()


def test_frames_are_timed_on_the_default_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Default:
        def __enter__(self) -> None:
            order.append("default stream")

        def __exit__(self, *_: Any) -> None:
            order.append("back")

    xp: Any = NumpyAsCupy("cupy")
    xp.cuda = SimpleNamespace(Stream=SimpleNamespace(null=Default()))
    machine: Any = SimpleNamespace(
        xp=xp, device=SimpleNamespace(synchronize=lambda: order.append("waited"))
    )
    monkeypatch.setattr(frames, "_frames_row", lambda *_: order.append("searched") or {})
    frames.frames_row(None, None, None, machine)  # type: ignore[arg-type]
    assert order == ["waited", "default stream", "searched", "back"]
    assert isinstance(frames._default_stream(np), nullcontext)


def test_without_faiss_the_definition_judges(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.search_gpu.judge.find_spec", lambda name: None)
    judge, n_judged = open_judge(index)
    assert (judge.name, judge.on_device) == ("reference", False)
    queries = np.ones((n_judged, 16), np.float32)
    scores, item_ids = judge.search_to_host(queries, K, N_PROBES)
    right = reference.search(index, queries, k=K, n_probes=N_PROBES)
    np.testing.assert_array_equal(item_ids.ravel(), right.item_ids)
    np.testing.assert_array_equal(scores.ravel(), right.scores)


def row(backend: str, seconds: float | None, recall: float, **fields: Any) -> dict[str, Any]:
    sizes = {"kind": "clustered", "n_items": 1000, "dim": 16, "batch": 8, "k": 10, "n_probes": 8}
    sizes |= {"code_bytes": 8, "pq_bits": 8, "n_lists": 32}
    peer = None if backend.startswith("gpu") else backend.split()[0]
    return {
        **sizes,
        **{"backend": backend, "peer": peer, "seconds": seconds, "recall": recall, "error": None},
        **fields,
    }


def test_equal_recall_takes_the_fastest_setting_that_finds_as_much() -> None:
    rows = [
        row("gpu", 2.0, 0.9),
        row("gpu (frames)", 3.0, None),  # type: ignore[arg-type]
        row("cuvs ivf_pq", 4.0, 0.8),  # faster than the next, and finds less
        row("cuvs ivf_pq", 8.0, 0.899, n_probes=16),
        row("cuvs ivf_pq", 9.0, 0.95, n_probes=32),
        row("cuvs ivf_pq", 1.0, 0.95, n_lists=64),  # of another index
        row("cuvs ivf_pq (fp16)", 1.0, 0.7),
        row("torch exact (bf16)", 5.0, 1.0, n_lists=64, code_bytes=32),  # knows no index
        row("torch exact (bf16)", 1.0, 1.0, batch=1),
    ]
    found = {each["peer"]: each for each in equal_recall(rows)}
    assert set(found) == {"cuvs ivf_pq", "cuvs ivf_pq (fp16)", "torch exact (bf16)"}
    assert (found["cuvs ivf_pq"]["peer_n_probes"], found["cuvs ivf_pq"]["gain"]) == (16, 4.0)
    assert found["cuvs ivf_pq (fp16)"]["gain"] is None
    assert found["torch exact (bf16)"]["gain"] == 2.5
    table = equal_recall_table(rows).splitlines()
    assert len(table) == 5
    assert "| cuvs ivf_pq | 16 | 0.8990 | 8,000,000.0 | 4.00 |" in table[2]
    assert table[3].endswith("| cuvs ivf_pq (fp16) | none | – | – | – |")
