"""The second look of the GPU searcher: its kernel, what it keeps, where the vectors are."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from merlin_poeem import Index, open_searcher
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.stored_vectors import VECTOR_DTYPES, VectorDtype
from merlin_poeem.search.gpu.device_index import device_bytes
from merlin_poeem.search.gpu.device_vectors import MAX_LANES, vector_bytes
from merlin_poeem.search.gpu.index_shape import index_shape
from merlin_poeem.search.gpu.plan import MAX_K
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.device_arrays import counting_reads, hidden
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_item_set,
    random_queries,
    with_random_vectors,
)
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.openers import (
    BULK,
    SPLIT,
    ReplannedSearcher,
    StandInDevice,
    needs_compiler,
    open_emulated,
)

pytestmark = needs_compiler

# A part of 16 bytes, exactly as much, more; one to eight lanes, and several steps of them.
DIMS = {1: (1, 1), 8: (2, 4), 15: (3, 5), 33: (3, 11), 64: (8, 8), 129: (3, 43), 300: (4, 75)}


@pytest.fixture(scope="module")
def index() -> Index:
    """Named as the fixture of the others, whose searchers then hold vectors."""
    return random_index(vectors="float16")


@pytest.fixture
def host_searcher(index: Index) -> GpuSearcher:
    return open_emulated(index, vectors_on_device=False)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_any_dimension(metric: str, dtype: VectorDtype, dim: int) -> None:
    pq_dim, pq_len = DIMS[dim]
    index = random_index(metric, pq_dim=pq_dim, pq_len=pq_len, vectors=dtype)
    assert index.dim == dim
    queries = random_queries(index, 3)
    searcher = open_emulated(index)
    vectors = searcher._on_device.vectors
    assert vectors is not None
    assert vectors.n_lanes <= min(MAX_LANES, vectors.n_quads) < 2 * vectors.n_lanes
    for k, refine in ((5, 4), (300, 2)):
        got = searcher.search(queries, k=k, n_probes=8, refine=refine)
        assert_answers(index, got, queries, k=k, n_probes=8, refine=refine)


def test_the_kernel_runs_where_it_is_asked_for(index: Index, searcher: GpuSearcher) -> None:
    queries = random_queries(index, 40)
    searcher.search(queries, k=5, exclude=[[]] * 40)
    assert searcher.device.n_launches("refine<true, false>") == 0
    searcher.search(queries, k=5, refine=2, exclude=[[]] * 40)
    assert searcher.device.n_launches("refine<true, false>") == 1


def test_ids_of_any_size_and_sign() -> None:
    """Lists go by ranks: ids that are not held, and -1, stand for none."""
    index = random_index(n_items=1000, n_repeated=900, encodes_residual=False, scales=False)
    codes, rng = index.item_codes, np.random.default_rng(0)
    ids = (rng.integers(-3, 3, index.n_items) << 32) + rng.permutation(index.n_items) * 7 - 1
    index = Index.from_codes(index.params, index.quantization, replace(codes, item_ids=ids))
    index = with_random_vectors(index, "int8")
    queries = random_queries(index, 3)
    odd = np.array([-1, -(2**63), 2**63 - 1, 0])
    lists = [np.concatenate([rng.choice(ids, 500), odd]) for _ in range(3)]
    for changes in ({}, SPLIT):
        searcher = ReplannedSearcher(index, EmulatedDevice(), **changes)
        for name in ("exclude", "allow"):
            search = {"k": 150, "n_probes": 8, "refine": 2, name: lists}
            assert_answers(index, searcher.search(queries, **search), queries, **search)


def test_items_that_are_gone_and_item_sets(index: Index, searcher: GpuSearcher) -> None:
    queries = random_queries(index, 4)
    found = searcher.search(queries, k=3, refine=4)
    gone = searcher.without(found.item_ids)
    allow = random_item_set(index, 200)
    for search in ({"allow": allow}, {}):
        got = gone.search(queries, k=10, refine=3, **search)
        exclude = {"exclude": np.unique(found.item_ids), **search}
        assert_answers(index, got, queries, k=10, refine=3, **exclude)


def test_graphs_are_of_one_refine(index: Index, searcher: GpuSearcher) -> None:
    queries = random_queries(index, 3)
    for refine, n_captures in ((0, 1), (2, 2), (4, 3), (2, 3), (0, 3)):
        got = searcher.search(queries, k=5, refine=refine)
        assert_answers(index, got, queries, k=5, refine=refine)
        assert searcher.device.n_captures == n_captures
    captured = searcher.capture(3, 5, refine=4)
    captured.queries[:] = queries
    captured.replay()
    expected = searcher.search(queries, k=5, refine=4)
    np.testing.assert_array_equal(captured.results.item_ids.ravel(), expected.item_ids)
    np.testing.assert_array_equal(captured.results.scores.ravel(), expected.scores)


def test_pipelines_are_of_one_refine(index: Index, searcher: GpuSearcher) -> None:
    queries, lists = random_queries(index, 3), random_id_lists(index, 3, 50)
    for refine in (0, 2, 4, 2, 0):
        search = {"k": 5, "refine": refine, "exclude": lists}
        assert_answers(index, searcher.search(queries, **search), queries, **search)


@pytest.mark.parametrize("changes", [{}, SPLIT, BULK], ids=["planned", "split", "bulk"])
def test_equal_on_every_path(index: Index, changes: dict[str, Any]) -> None:
    queries = random_queries(index, 12)
    searcher = ReplannedSearcher(index, EmulatedDevice(), **changes)
    got = searcher.search(queries, k=20, n_probes=6, refine=5)
    assert_same(got, open_emulated(index).search(queries, k=20, n_probes=6, refine=5))


def test_padded(index: Index, searcher: GpuSearcher) -> None:
    queries = random_queries(index, 3)
    queries[1, 0] = np.nan
    found = searcher.search_padded(queries, k=500, n_probes=8, refine=2)
    assert found.counts[1] == 0
    assert (found.item_ids[1] == -1).all()
    assert (found.scores[1] == -np.inf).all()
    others = searcher.search(queries[[0, 2]], k=500, n_probes=8, refine=2)
    assert found.counts[[0, 2]].tolist() == others.counts.tolist()
    assert found.item_ids[0, : others.counts[0]].tolist() == others[0][1].tolist()


def test_more_candidates_than_the_kernels_take() -> None:
    index = random_index(n_items=3000, vectors="float16")
    searcher, queries = open_emulated(index), random_queries(index, 1)
    on_host = open_emulated(index, vectors_on_device=False)
    assert searcher.plan(1, MAX_K // 4, refine=4).n_candidates == MAX_K
    message = rf"refine, k: expected refine \* k of at most {MAX_K} on the GPU, got 4 \* 513"
    for call in (
        lambda: searcher.search(queries, k=513, refine=4),
        lambda: searcher.search_padded(queries, k=513, refine=4),
        lambda: searcher.plan(1, 513, refine=4),
        lambda: searcher.capture(1, 513, refine=4),
        lambda: on_host.search(queries, k=513, refine=4),
        lambda: on_host.plan(1, 513, refine=4),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_no_more_candidates_than_items(index: Index, searcher: GpuSearcher) -> None:
    assert searcher.plan(1, 300, refine=10**6).n_candidates == len(index)
    queries = random_queries(index, 2)
    got = searcher.search(queries, k=300, n_probes=8, refine=10**6)
    assert_answers(index, got, queries, k=300, n_probes=8, refine=10**6)


def test_the_workspace_counts_candidates(searcher: GpuSearcher) -> None:
    """Against a search for as many results."""
    refined, plain = searcher.plan(7, 20, refine=4), searcher.plan(7, 80, refine=0)
    assert plain.n_candidates == 0
    assert refined.workspace_bytes - plain.workspace_bytes == 7 * (12 * 80 + 4)
    assert refined.capacity == plain.capacity


@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
def test_memory_of_vectors(dtype: VectorDtype) -> None:
    index = random_index(pq_dim=5, pq_len=5, vectors=dtype)
    with_vectors, without = open_emulated(index), open_emulated(index, vectors_on_device=False)
    row = 64 if dtype == "float16" else 32
    added = with_vectors.device_bytes - without.device_bytes
    assert added == len(index) * (row + 4 + 8 + 8) <= vector_bytes(index)
    assert without.device_bytes == open_emulated(index.without_vectors()).device_bytes


def test_vectors_larger_than_the_device(index: Index) -> None:
    of_codes, of_vectors = device_bytes(index, index_shape(index)), vector_bytes(index)
    needed = of_codes + of_vectors
    device = EmulatedDevice(free_bytes=needed - 1)
    message = rf"needs {needed}, {of_vectors} of them for vectors: vectors_on_device=False leaves"
    with pytest.raises(MemoryError, match=message):
        GpuSearcher(index, device)
    GpuSearcher(index, device, vectors_on_device=False)
    GpuSearcher(index, EmulatedDevice(free_bytes=needed))


def test_vectors_come_in_parts(index: Index, monkeypatch: Any) -> None:
    whole = open_emulated(index)._on_device.vectors
    monkeypatch.setattr("merlin_poeem.search.gpu.device_vectors.UPLOAD_BYTES", 1000)
    in_parts = open_emulated(index)._on_device.vectors
    np.testing.assert_array_equal(in_parts.values, whole.values)


@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_vectors_on_the_host(metric: str, dtype: VectorDtype) -> None:
    index = random_index(metric, rotation=True, vectors=dtype)
    searcher = open_emulated(index, vectors_on_device=False)
    queries, lists = random_queries(index, 12), random_id_lists(index, 12, 150)
    for search in ({}, {"exclude": lists}, {"allow": random_item_set(index, 200)}):
        for k, refine in ((10, 4), (10, 0), (500, 2)):
            got = searcher.search(queries, k=k, n_probes=6, refine=refine, **search)
            assert_answers(index, got, queries, k=k, n_probes=6, refine=refine, **search)
    assert not searcher.device.n_launches("refine<true, false>")


def test_vectors_on_the_host_cannot_be_waited_for(host_searcher: GpuSearcher) -> None:
    queries = random_queries(host_searcher.index, 2)
    host_searcher.search_padded(queries, k=5, refine=0)
    host_searcher.capture(2, 5, refine=0)
    for call in (
        lambda: host_searcher.search_padded(queries, k=5, refine=3),
        lambda: host_searcher.capture(2, 5, refine=3),
    ):
        with pytest.raises(ValueError, match=r"refine: expected 0, as the vectors stayed .*got 3"):
            call()


def test_the_plan_of_vectors_on_the_host_is_of_the_candidates(host_searcher: GpuSearcher) -> None:
    assert host_searcher.plan(2, 5, refine=4) == host_searcher.plan(2, 20, refine=0)


@pytest.mark.parametrize("on_device", [True, False])
def test_answers_are_where_the_queries_are(index: Index, cupy: ModuleType, on_device: bool) -> None:
    searcher = GpuSearcher(index, StandInDevice(cupy), vectors_on_device=on_device)
    queries, lists = random_queries(index, 40), random_id_lists(index, 40, 100)
    for search in ({}, {"exclude": lists}):
        expected = searcher.search(queries, k=9, refine=3, **search)
        assert type(expected.scores) is np.ndarray
        assert_answers(index, expected, queries, k=9, refine=3, **search)
        with counting_reads() as reads:
            got = searcher.search(cupy.asarray(queries), k=9, refine=3, **search)
        assert not on_device or max(reads) <= 2
        assert all(type(a) is cupy.ndarray for a in (got.scores, got.item_ids, got.counts))
        assert_same(got.to_host(), expected)


def test_padded_reads_nothing(index: Index, cupy: ModuleType) -> None:
    searcher = GpuSearcher(index, StandInDevice(cupy))
    queries = cupy.asarray(random_queries(index, 3))
    lists = random_id_lists(index, 3, 50)
    searcher.search_padded(queries, k=5, refine=3, exclude=lists)
    with counting_reads() as reads:
        got = searcher.search_padded(queries, k=5, refine=3, exclude=lists)
    assert reads == []
    expected = searcher.search(hidden(queries), k=5, refine=3, exclude=lists)
    np.testing.assert_array_equal(hidden(got.item_ids).ravel(), expected.item_ids)


def test_open_searcher_says_where_vectors_are(index: Index, monkeypatch: Any) -> None:
    monkeypatch.setattr("merlin_poeem.search.gpu.searcher.CupyDevice", EmulatedDevice)
    for backend in ("gpu", "auto"):
        opened = open_searcher(index, backend, vectors_on_device=False)
        assert opened._on_device.vectors is None  # type: ignore[attr-defined]
        assert open_searcher(index, backend)._on_device.vectors is not None  # type: ignore[attr-defined]
    queries = random_queries(index, 2)
    for backend in ("faiss", "reference"):
        got = open_searcher(index, backend, vectors_on_device=False).search(queries, k=4, refine=2)
        assert_answers(index, got, queries, k=4, refine=2)


def test_an_empty_index_and_no_queries() -> None:
    empty = random_index(n_items=0, vectors="float16")
    searcher = open_emulated(empty)
    queries = random_queries(empty, 2)
    assert searcher.search(queries, k=3, refine=2).counts.tolist() == [0, 0]
    assert searcher.search_padded(queries, k=3, refine=2).counts.tolist() == [0, 0]
    searcher = open_emulated(random_index(vectors="int8"))
    assert len(searcher.search(queries[:0], k=3, refine=2)) == 0
