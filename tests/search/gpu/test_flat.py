"""The GPU searcher of a flat index: its kernels, its plans, its memory, where its arrays are."""

import os
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import FlatIndex, IdLists, ItemSet, open_searcher
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.stored_vectors import FLAT_DTYPES
from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.device_flat import flat_bytes
from merlin_poeem.search.gpu.flat import FlatGpuSearcher
from merlin_poeem.search.gpu.flat_plan import (
    BLOCK_QUERIES,
    BLOCK_ROWS,
    MAX_ARRAYS,
    MAX_ROWS,
    bytes_per_query,
    plan_flat,
)
from merlin_poeem.search.gpu.plan import MAX_K, MAX_MERGED, MAX_PARTS
from merlin_poeem.search.gpu.shared_memory import STATIC_SHARED_BYTES
from merlin_poeem.search.gpu.workspace import ALIGNMENT
from tests.device_arrays import TorchTensor, counting_reads
from tests.flat_factories import assert_flat_answers, flat_queries, random_flat
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.device import H100, EmulatedDevice
from tests.search.gpu.openers import (
    FLAT_SPLIT,
    RecordingDevice,
    ReplannedFlat,
    StandInDevice,
    needs_compiler,
)
from tests.search.gpu.test_plan import CARDS, MAX_GRID

WORKSPACE = 512 << 20


@pytest.fixture(scope="module")
def flat() -> FlatIndex:
    return random_flat(n_items=1200)


def open_flat(index: FlatIndex, **arguments: Any) -> FlatGpuSearcher:
    return FlatGpuSearcher(index, RecordingDevice(), **arguments)


@needs_compiler
@pytest.mark.parametrize("dim", [1, 4, 16, 17, 127, 128, 129, 300])
@pytest.mark.parametrize("dtype", FLAT_DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_any_dimension(metric: str, dtype: str, dim: int) -> None:
    """A part of 16 bytes, exactly as much, more; one slab, exactly one, several."""
    index = random_flat(metric, dtype, n_items=60, dim=dim)
    queries = flat_queries(index, 3)
    got = open_flat(index).search(queries, k=50)
    assert_flat_answers(index, got, queries, k=50)


@needs_compiler
@pytest.mark.parametrize("n_items", [1, 31, 33, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_any_number_of_items(n_items: int) -> None:
    index = random_flat("l2", "int8", n_items=n_items)
    for n in (1, BLOCK_QUERIES, BLOCK_QUERIES + 1):
        queries = flat_queries(index, n)
        for changes in ({}, FLAT_SPLIT):
            searcher = ReplannedFlat(index, EmulatedDevice(), **changes)
            for search in ({"k": 2000}, {"k": 3, "exclude": ItemSet(index.item_ids[::2])}):
                assert_flat_answers(index, searcher.search(queries, **search), queries, **search)


@needs_compiler
def test_ids_of_any_size_and_sign() -> None:
    rng = np.random.default_rng(0)
    ids = (rng.integers(-3, 3, 1500) << 32) + rng.permutation(1500) * 7 - 1
    vectors = np.repeat(rng.standard_normal((15, 5)).astype(np.float32), 100, axis=0)
    index = FlatIndex.from_vectors(ids, vectors)
    queries = flat_queries(index, 3)
    odd = [-1, -(2**63), 2**63 - 1, 0]
    lists = [np.concatenate([rng.choice(ids, 700), odd]) for _ in range(3)]
    for changes in ({}, FLAT_SPLIT):
        searcher = ReplannedFlat(index, EmulatedDevice(), **changes)
        for name in ("exclude", "allow"):
            for chosen in (lists, ItemSet(lists[0])):
                search = {"k": 250, name: chosen}
                assert_flat_answers(index, searcher.search(queries, **search), queries, **search)


@needs_compiler
def test_equal_vectors_have_equal_scores_wherever_they_lie() -> None:
    vectors = np.tile(np.random.default_rng(0).standard_normal((1, 57)), (2500, 1))
    for metric in METRICS:
        index = FlatIndex.from_vectors(
            np.arange(2500),
            vectors.astype(np.float32),
            metric=metric,  # type: ignore[arg-type]
        )
        found = ReplannedFlat(index, EmulatedDevice(), n_parts=7).search(
            np.tile(flat_queries(index, 1), (11, 1)), k=2048
        )
        assert len(np.unique(found.scores)) == 1
        assert (found.item_ids.reshape(11, 2048) == np.arange(2048)).all()


@needs_compiler
def test_a_product_of_zero_has_one_sign() -> None:
    """Ties with +0 and -0 come by id."""
    vectors = np.array([[-1.0], [1.0], [-1.0], [1.0]], np.float32)
    index = FlatIndex.from_vectors(range(4), vectors)
    for query in (0.0, -0.0):
        found = open_flat(index).search(np.array([[query]], np.float32), k=4)
        assert found.item_ids.tolist() == [0, 1, 2, 3]
        assert not np.signbit(found.scores).any()


@needs_compiler
def test_small_workspace_gives_the_same_in_chunks(flat: FlatIndex) -> None:
    queries, rng = flat_queries(flat, 20), np.random.default_rng(0)
    whole = open_flat(flat)
    room = whole.plan(1, 9).workspace_bytes + 2 * bytes_per_query(flat.n_items, 9, 1)
    small = open_flat(flat, workspace_bytes=room)
    assert small.plan(20, 9).chunk == 3
    assert small.plan(20, 9).workspace_bytes == room
    lists = [rng.choice(flat.item_ids, 300) for _ in queries]
    for search in ({"k": 9}, {"k": 9, "exclude": lists}, {"k": 9, "allow": lists}):
        assert_same(small.search(queries, **search), whole.search(queries, **search))
    assert small.device.n_launches("choose_items") == 3 * 7  # type: ignore[attr-defined]


@needs_compiler
def test_what_the_plan_refuses(flat: FlatIndex) -> None:
    queries = flat_queries(flat, 1)
    needed = open_flat(flat).plan(1, 5).workspace_bytes
    small = open_flat(flat, workspace_bytes=needed - 1)
    many = open_flat(random_flat(n_items=MAX_K + 1, dim=1))
    assert many.search(queries[:, :1].copy(), k=MAX_K).counts.tolist() == [MAX_K]
    at_least = f"workspace_bytes: expected at least {needed}, what one query of 1200 items with"
    for searcher, k, message in (
        (small, 5, at_least),
        (many, MAX_K + 1, f"k: expected at most {MAX_K} on the GPU, got {MAX_K + 1}"),
    ):
        with pytest.raises(ValueError, match=message):
            searcher.plan(1, k)
        with pytest.raises(ValueError, match=message):
            searcher.search(queries[:, : searcher.index.dim].copy(), k=k)
    with pytest.raises(ValueError, match="workspace_bytes: expected at least 1, got 0"):
        open_flat(flat, workspace_bytes=0)


@given(
    card=st.sampled_from(CARDS),
    n_items=st.integers(1, MAX_ROWS),
    batch=st.integers(1, 10**6),
    k=st.integers(1, MAX_K),
    beyond=st.integers(0, 1 << 36),
)
def test_every_plan_keeps_the_limits(
    card: Card, n_items: int, batch: int, k: int, beyond: int
) -> None:
    """``beyond`` what one query needs at most."""
    k = min(k, n_items)
    workspace = bytes_per_query(n_items, k, MAX_PARTS) + ALIGNMENT * MAX_ARRAYS + beyond
    plan = plan_flat(card, n_items, batch, k, workspace)
    assert 1 <= plan.chunk <= batch
    assert plan.workspace_bytes <= workspace
    assert 1 <= plan.n_parts <= MAX_PARTS
    assert plan.n_parts == 1 or plan.n_parts * k <= MAX_MERGED
    assert plan.shared_bytes + STATIC_SHARED_BYTES <= card.shared_bytes_per_block
    tiles, blocks = -(-plan.chunk // BLOCK_QUERIES), -(-n_items // BLOCK_ROWS)
    assert tiles * blocks <= MAX_GRID[0]
    assert plan.chunk * plan.n_parts <= MAX_GRID[0]


def test_one_query_fills_the_card_and_many_are_not_split() -> None:
    assert plan_flat(H100, 10**6, 1, 100, WORKSPACE).n_parts == MAX_PARTS
    assert plan_flat(H100, 10**5, 4096, 100, WORKSPACE).n_parts == 1
    assert plan_flat(H100, 5000, 1, 100, WORKSPACE).n_parts == 1


@pytest.mark.parametrize("dtype", FLAT_DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_memory(metric: str, dtype: str) -> None:
    index = random_flat(metric, dtype, n_items=1025, dim=21)
    row = {"float32": 96, "float16": 48 + 4, "int8": 32 + 4}[dtype]
    searcher = open_flat(index)
    origin = 4 * 21 if metric == "l2" else 0
    assert searcher.device_bytes == 2048 * row + 1025 * 8 + origin
    needed = flat_bytes(index)
    assert searcher.device_bytes < needed
    FlatGpuSearcher(index, EmulatedDevice(free_bytes=needed))
    with pytest.raises(MemoryError, match=rf"at most {needed - 1} bytes, .*needs {needed}"):
        FlatGpuSearcher(index, EmulatedDevice(free_bytes=needed - 1))


def test_vectors_come_in_parts(flat: FlatIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_flat(flat)._on_device.vectors
    monkeypatch.setattr("merlin_poeem.search.gpu.device_flat.UPLOAD_BYTES", 5000)
    np.testing.assert_array_equal(open_flat(flat)._on_device.vectors, whole)


def test_more_items_than_the_kernels_have_numbers_for(
    flat: FlatIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merlin_poeem.search.gpu.device_flat.MAX_ROWS", 1199)
    with pytest.raises(ValueError, match="index: expected at most 1199 items, got 1200"):
        open_flat(flat)


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_where_the_queries_are(metric: str, cupy: ModuleType) -> None:
    index = random_flat(metric)
    searcher = FlatGpuSearcher(index, StandInDevice(cupy))
    queries = flat_queries(index)
    lists = IdLists.from_rows([index.item_ids[i:200] for i in range(len(queries))])
    on_device = IdLists(cupy.asarray(lists.offsets), cupy.asarray(lists.values))
    for search, same in (
        ({}, {}),
        ({"exclude": lists}, {"exclude": on_device}),
        ({"allow": ItemSet(index.item_ids[:50])},) * 2,
    ):
        expected = searcher.search(queries, k=70, **search)
        assert type(expected.scores) is np.ndarray
        assert_flat_answers(index, expected, queries, k=70, **search)
        for given_queries in (cupy.asarray(queries), TorchTensor(queries)):
            with counting_reads() as reads:
                got = searcher.search(given_queries, k=70, **same)
            assert max(reads) <= 2
            assert all(type(a) is cupy.ndarray for a in (got.scores, got.item_ids, got.counts))
            assert_same(got.to_host(), expected)


@needs_compiler
def test_an_empty_index_and_no_queries(flat: FlatIndex) -> None:
    empty = open_flat(random_flat(n_items=0))
    assert empty.search(flat_queries(flat, 2), k=3).counts.tolist() == [0, 0]
    assert len(open_flat(flat).search(flat_queries(flat, 0), k=3)) == 0
    with pytest.raises(ValueError, match="index: expected one that holds items"):
        empty.plan(1, 1)


@needs_compiler
def test_what_is_not_a_number(flat: FlatIndex) -> None:
    queries = flat_queries(flat, 2)
    for value, message in ((np.nan, "expected finite values"), (1e16, "at most 1e.15 in size")):
        queries[1, 0] = value
        with pytest.raises(ValueError, match=message):
            open_flat(flat).search(queries, k=3)


@needs_compiler
def test_another_process_is_refused(flat: FlatIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = open_flat(flat)
    searcher.search(flat_queries(flat), k=1)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match=r"which opened it, got -1: a GPU cannot be used"):
        searcher.search(flat_queries(flat), k=1)


@needs_compiler
def test_open_searcher(flat: FlatIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merlin_poeem.search.gpu.flat.CupyDevice", EmulatedDevice)
    for backend in ("gpu", "auto"):
        searcher = open_searcher(flat, backend)
        assert (searcher.backend, searcher.on_device) == ("gpu", True)
        queries = flat_queries(flat, 2)
        assert_flat_answers(flat, searcher.search(queries, k=4), queries, k=4)
