"""The GPU searcher beyond what every backend shares: its plans, graphs, filters, arrays, limits."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem import IdLists, Index, ItemCodes, ItemSet, IVFPQParams, open_searcher
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu import searcher as gpu
from merlin_poeem.search.gpu.device_index import device_bytes, index_shape
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.device_arrays import TensorFlowTensor, TorchTensor, counting_reads, hidden
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_item_set,
    random_quantization,
    random_queries,
)
from tests.search.gpu.emulation.device import COMPILER, NO_COMPILER, ORDERS, EmulatedDevice
from tests.search.gpu.openers import BULK, SPLIT, ReplannedSearcher, StandInDevice

needs_compiler = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


class RecordingDevice(EmulatedDevice):
    """Counts the graphs that it records."""

    n_captures = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.n_captures += 1
        return super().capture(work)

    def n_launches(self, name: str) -> int:
        return sum(launch.name == name for launch in self.launches)


def open_emulated(index: Index, **arguments: Any) -> GpuSearcher:
    return GpuSearcher(index, RecordingDevice(), **arguments)


def assert_same(got: Any, expected: Any) -> None:
    """Bit by bit."""
    np.testing.assert_array_equal(got.counts, expected.counts)
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    np.testing.assert_array_equal(got.scores, expected.scores)


@pytest.fixture(scope="module")
def index() -> Index:
    return random_index()


@pytest.fixture
def searcher(index: Index) -> GpuSearcher:
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    return open_emulated(index)


# ---- shapes of indexes and searches --------------------------------------------------------------


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


# ---- arrays --------------------------------------------------------------------------------------


def test_layout_of_queries_in_memory_does_not_matter(searcher: GpuSearcher) -> None:
    queries = random_queries(searcher.index, 6)
    expected = searcher.search(queries, k=5)
    wide = np.repeat(queries, 2, axis=1)
    for same in (np.asfortranarray(queries), wide[:, ::2], queries[::-1][::-1]):
        assert_same(searcher.search(same, k=5), expected)
        found = searcher.search_padded(same, k=5)
        np.testing.assert_array_equal(found.item_ids.ravel(), expected.item_ids)


def test_order_and_repeats_in_id_lists_do_not_matter(searcher: GpuSearcher) -> None:
    queries = random_queries(searcher.index, 2)
    ids = np.sort(searcher.index.item_ids[:200])
    shuffled = np.concatenate([ids[::-1], ids[::3], [-1, 2**62]])
    for name in ("exclude", "allow"):
        expected = searcher.search(queries, k=300, n_probes=8, **{name: [ids, ids[:100]]})
        got = searcher.search(queries, k=300, n_probes=8, **{name: [shuffled, ids[99::-1]]})
        assert_same(got, expected)


@pytest.fixture
def stand_in(index: Index, cupy: ModuleType) -> GpuSearcher:
    """A searcher whose device arrays are not NumPy's."""
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    return GpuSearcher(index, StandInDevice(cupy))


def test_arrays_on_the_device_stay_there(
    stand_in: GpuSearcher, index: Index, cupy: ModuleType
) -> None:
    queries = random_queries(index, 40)
    lists = IdLists.from_rows(random_id_lists(index, 40, 100))
    on_device = IdLists(cupy.asarray(lists.offsets), cupy.asarray(lists.values))
    for host, device in (
        ({}, {}),
        ({"exclude": lists}, {"exclude": on_device}),
        ({"allow": lists}, {"allow": on_device}),
        ({"allow": random_item_set(index, 50)},) * 2,
    ):
        expected = stand_in.search(queries, k=400, **host)
        assert type(expected.scores) is type(expected.counts) is np.ndarray
        assert_answers(index, expected, queries, k=400, **host)
        with counting_reads() as reads:
            got = stand_in.search(cupy.asarray(queries), k=400, **device)
        assert max(reads) <= 2
        assert all(type(a) is cupy.ndarray for a in (got.scores, got.item_ids, got.counts))
        assert_same(got.to_host(), expected)


def test_padded_search_reads_nothing(stand_in: GpuSearcher, index: Index, cupy: Any) -> None:
    queries = cupy.asarray(random_queries(index, 3))
    stand_in.search_padded(queries, k=5)
    with counting_reads() as reads:
        got = stand_in.search_padded(queries, k=5)
    assert reads == []
    expected = stand_in.search(hidden(queries), k=5)
    np.testing.assert_array_equal(hidden(got.item_ids).ravel(), expected.item_ids)


@pytest.mark.parametrize("tensor", [TorchTensor, TensorFlowTensor])
def test_tensors_of_other_libraries(stand_in: GpuSearcher, index: Index, tensor: Any) -> None:
    queries = random_queries(index, 3)
    expected = stand_in.search(queries, k=5)
    got = stand_in.search(tensor(queries), k=5)
    assert_same(got.to_host(), expected)
    assert type(got.scores) is not np.ndarray
    padded = stand_in.search_padded(tensor(queries), k=5)
    np.testing.assert_array_equal(hidden(padded.item_ids).ravel(), expected.item_ids)
    with pytest.raises(TypeError, match="queries: expected float32, got float64"):
        stand_in.search(tensor(queries.astype(np.float64)), k=5)
    with pytest.raises(ValueError, match="NaN or infinity, first in row 2"):
        stand_in.search(tensor(np.vstack([queries[:2], np.full((1, 16), np.nan, "f4")])), k=5)


# ---- without waiting -----------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rotation", [False, True])
def test_padded_search_fills_what_is_missing(metric: str, rotation: bool) -> None:
    index = random_index(metric, rotation=rotation)
    queries, searcher = random_queries(index, 6), open_emulated(index)
    allow = [index.item_ids[: 2 * i] for i in range(6)]
    for k in (5, 600):
        expected = searcher.search(queries, k=k, n_probes=8, allow=allow)
        found = searcher.search_padded(queries, k=k, n_probes=8, allow=allow)
        scores, item_ids = expected.padded(k, fill_id=-1)
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_array_equal(found.scores, scores)
        np.testing.assert_array_equal(found.item_ids, item_ids)


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize(
    ("n", "changes"), [(4, {}), (300, {}), (6, BULK), (6, {**SPLIT, "chunk": 6})]
)
def test_queries_that_are_not_finite_have_no_results(
    metric: str, rotation: bool, n: int, changes: dict[str, Any]
) -> None:
    index = random_index(metric, rotation=rotation)
    queries = random_queries(index, n)
    searcher = ReplannedSearcher(index, EmulatedDevice(), **changes)
    expected = searcher.search_padded(queries, k=5)
    assert (expected.counts == 5).all()
    bad = queries.copy()
    bad[1, 3], bad[2, :], bad[3, 15] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        found = searcher.search_padded(bad, k=5)
    assert found.counts[1:4].tolist() == [0, 0, 0]
    assert (found.scores[1:4] == -np.inf).all()
    assert (found.item_ids[1:4] == -1).all()
    others = np.delete(np.arange(n), [1, 2, 3])
    np.testing.assert_array_equal(found.item_ids[others], expected.item_ids[others])
    with pytest.raises(ValueError, match="NaN or infinity, first in row 1"):
        searcher.search(bad, k=5)


@needs_compiler
def test_padded_search_of_nothing() -> None:
    empty = random_index(n_items=0)
    found = open_emulated(empty).search_padded(random_queries(empty, 2), k=3)
    assert found.item_ids.tolist() == [[-1] * 3] * 2
    assert found.counts.tolist() == [0, 0]
    assert (found.scores == -np.inf).all()
    index = random_index()
    assert open_emulated(index).search_padded(random_queries(index, 0), k=3).scores.shape == (0, 3)


def test_padded_search_refuses(searcher: GpuSearcher) -> None:
    queries = random_queries(searcher.index, 2)
    for bad, error, message in (
        (queries.astype(np.float64), TypeError, "queries: expected float32, got float64"),
        (queries[:, :15], ValueError, r"queries: expected shape \(n, 16\), got \(2, 15\)"),
        (queries[0], ValueError, r"queries: expected shape \(n, 16\), got \(16,\)"),
    ):
        with pytest.raises(error, match=message):
            searcher.search_padded(bad, k=5)


# ---- graphs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "of_graph"), [(1, 1), (3, 4), (32, 32), (33, None)])
def test_small_batches_are_recorded(
    searcher: GpuSearcher, batch: int, of_graph: int | None
) -> None:
    assert searcher.plan(batch, 5).captured_batch == of_graph
    for seed in (1, 2):
        queries = random_queries(searcher.index, batch, seed)
        got = searcher.search(queries, k=5)
        assert_answers(searcher.index, got, queries, k=5)
    device = searcher.device
    assert device.n_captures == (of_graph is not None)
    grids = {launch.grid[0] for launch in device.launches if launch.file == "lists.cu"}
    assert grids == {of_graph or batch}


def test_filters_are_not_recorded(searcher: GpuSearcher) -> None:
    queries = random_queries(searcher.index, 2)
    searcher.search(queries, k=5, exclude=ItemSet([1]))
    searcher.search(queries, k=5, allow=[[1], [2]])
    assert searcher.device.n_captures == 0


def test_results_do_not_change_with_a_later_search(searcher: GpuSearcher) -> None:
    first, second = (random_queries(searcher.index, 3, seed) for seed in (1, 2))
    for search in (searcher.search, searcher.search_padded):
        found = search(first, k=5)
        kept = found.scores.copy(), found.item_ids.copy(), found.counts.copy()
        assert search(second, k=5).item_ids.tolist() != found.item_ids.tolist()
        for array, copied in zip((found.scores, found.item_ids, found.counts), kept, strict=True):
            np.testing.assert_array_equal(array, copied)


def test_recorded_search_takes_new_queries(searcher: GpuSearcher) -> None:
    captured = searcher.capture(3, 5, n_probes=4)
    for seed in (1, 2):
        queries = random_queries(searcher.index, 3, seed)
        captured.queries[:] = queries
        captured.replay()
        expected = searcher.search(queries, k=5, n_probes=4)
        np.testing.assert_array_equal(captured.results.item_ids.ravel(), expected.item_ids)
        np.testing.assert_array_equal(captured.results.scores.ravel(), expected.scores)


@needs_compiler
def test_recording_refuses() -> None:
    with pytest.raises(ValueError, match=r"batch: expected 1 to 32 .*got 33 and 400 items"):
        open_emulated(random_index()).capture(33, 5)
    with pytest.raises(ValueError, match=r"batch: expected .* holds items; got 1 and 0 items"):
        open_emulated(random_index(n_items=0)).capture(1, 5)


def test_oldest_graph_goes_first(searcher: GpuSearcher, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "KEPT_GRAPHS", 2)
    queries, device = random_queries(searcher.index, 1), searcher.device
    for k, n_captures in ((1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)):
        searcher.search(queries, k=k)
        assert device.n_captures == n_captures


# ---- filters -------------------------------------------------------------------------------------


def test_bitmaps_of_item_sets_are_kept(searcher: GpuSearcher, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "KEPT_MASKS", 2)
    queries, device = random_queries(searcher.index, 2), searcher.device
    a, b, c = (random_item_set(searcher.index, 50, seed) for seed in (1, 2, 3))
    for exclude, n_marked in ((a, 1), (b, 2), (a, 2), (c, 3), (a, 3), (b, 4)):
        got = searcher.search(queries, k=5, exclude=exclude)
        assert_answers(searcher.index, got, queries, k=5, exclude=exclude)
        assert device.n_launches("mark_items") == n_marked


def test_removed_items_are_gone_and_the_original_keeps_them(searcher: GpuSearcher) -> None:
    index = searcher.index
    queries = random_queries(index, 3)
    before = searcher.search(queries, k=10)
    once = searcher.without(before.item_ids[:5])
    twice = once.without([*before.item_ids[10:15], -5])
    for each, gone in (
        (once, before.item_ids[:5]),
        (twice, before.item_ids[[*range(5), *range(10, 15)]]),
    ):
        for _ in range(2):
            got = each.search(queries, k=10)
            assert_answers(index, got, queries, k=10, exclude=ItemSet(gone))
        padded = each.search_padded(queries, k=10)
        np.testing.assert_array_equal(padded.item_ids.ravel(), got.item_ids)
        captured = each.capture(3, 10)
        captured.queries[:] = queries
        captured.replay()
        np.testing.assert_array_equal(captured.results.item_ids.ravel(), got.item_ids)
    assert_same(searcher.search(queries, k=10), before)
    assert once.device_bytes == searcher.device_bytes


@needs_compiler
@settings(max_examples=25)
@given(st.data())
def test_removed_items_never_come_back(data: st.DataObject) -> None:
    index = random_index(data.draw(st.sampled_from(METRICS)), n_items=60, n_lists=3)
    ids = st.lists(st.sampled_from([*index.item_ids.tolist(), -1, 3]))
    lists = st.lists(ids, min_size=2, max_size=2)
    searcher: GpuSearcher = open_emulated(index)
    removed: list[int] = []
    for more in data.draw(st.lists(ids, min_size=1, max_size=3)):
        searcher, removed = searcher.without(more), removed + more
    search = {
        name: data.draw(lists | ids.map(ItemSet))
        for name in ("exclude", "allow")
        if data.draw(st.booleans())
    }
    queries = random_queries(index, 2)
    got = searcher.search(queries, k=60, n_probes=3, **search)
    assert not np.isin(got.item_ids, removed).any()
    given = search.get("exclude", [[], []])
    rows = [given.item_ids.tolist()] * 2 if isinstance(given, ItemSet) else given
    everything_out = {**search, "exclude": [row + removed for row in rows]}
    assert_answers(index, got, queries, k=60, n_probes=3, **everything_out)


# ---- memory --------------------------------------------------------------------------------------


def test_small_workspace_gives_the_same_in_chunks(index: Index, searcher: GpuSearcher) -> None:
    queries = random_queries(index, 20)
    lists = random_id_lists(index, 20, 100)
    per_query = searcher.plan(20, 9).workspace_bytes // 20
    small = open_emulated(index, workspace_bytes=3 * per_query)
    assert small.plan(20, 9).chunk == 3
    assert small.plan(20, 9).workspace_bytes <= 3 * per_query
    for search in ({"k": 9}, {"k": 9, "exclude": lists}, {"k": 9, "allow": lists}):
        assert_same(small.search(queries, **search), searcher.search(queries, **search))
    assert small.device.n_launches("choose_lists") == 3 * 7


def test_batch_whose_rounded_graph_does_not_fit(index: Index, searcher: GpuSearcher) -> None:
    per_query = searcher.plan(32, 9).workspace_bytes // 32
    small = open_emulated(index, workspace_bytes=20 * per_query)
    for batch in (16, 17, 20, 21, 32):
        queries = random_queries(index, batch)
        assert_same(small.search(queries, k=9), searcher.search(queries, k=9))


def test_workspace_too_small_for_a_query(index: Index) -> None:
    searcher = open_emulated(index, workspace_bytes=1000) if COMPILER else pytest.skip(NO_COMPILER)
    for call in (
        lambda: searcher.search(random_queries(index, 1), k=5),
        lambda: searcher.plan(1, 5),
    ):
        with pytest.raises(ValueError, match=r"workspace_bytes: .*at least \d{4}, .*; got 1000"):
            call()
    with pytest.raises(ValueError, match="workspace_bytes: expected at least 1, got 0"):
        open_emulated(index, workspace_bytes=0)


def test_index_larger_than_the_device(index: Index) -> None:
    class FullDevice(EmulatedDevice):
        @property
        def xp(self) -> Any:
            raise AssertionError("something is allocated")

    needed = device_bytes(index, index_shape(index))
    with pytest.raises(MemoryError, match=rf"{needed - 1} bytes, .*emulated H100; .*{needed}$"):
        GpuSearcher(index, FullDevice(free_bytes=needed - 1))


@needs_compiler
@settings(max_examples=50)
@given(
    st.sampled_from(METRICS),
    st.integers(0, 300),
    st.integers(1, 40),
    st.sampled_from([(4, 3), (8, 5), (8, 16)]),
    st.booleans(),
    st.booleans(),
)
def test_memory_needed_is_known_before(
    metric: str, n_items: int, n_lists: int, code: tuple[int, int], rotation: bool, residual: bool
) -> None:
    index = random_index(
        metric,
        n_items=n_items,
        n_lists=n_lists,
        pq_bits=code[0],
        pq_dim=code[1],
        rotation=rotation,
        encodes_residual=residual,
    )
    assert open_emulated(index).device_bytes <= device_bytes(index, index_shape(index))


@needs_compiler
@pytest.mark.parametrize(("metric", "extra"), [("inner_product", 0), ("cosine", 4), ("l2", 4)])
def test_device_memory_of_an_item(metric: str, extra: int) -> None:
    n, rng = 100_000, np.random.default_rng(0)
    quantization = random_quantization(rng, n_lists=100, pq_dim=8, pq_len=2)
    codes = ItemCodes(
        np.arange(n), np.repeat(np.arange(100), 1000), rng.integers(0, 256, (n, 8)).astype(np.uint8)
    )
    params = IVFPQParams(n_lists=100, pq_dim=8, metric=metric)  # type: ignore[arg-type]
    searcher = open_emulated(Index.from_codes(params, quantization, codes))
    assert 8 + 8 + extra < searcher.device_bytes / n <= (8 + 8 + extra) * 1.05


# ---- what the kernels do not support -------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"pq_bits": 12}, "pq_bits: expected at most 8 on the GPU, got 12"),
        ({"pq_dim": 65, "pq_len": 1}, "pq_dim: .*at most 64 .*pq_bits = 8, got 65"),
        (
            {"pq_dim": 129, "pq_len": 1, "pq_bits": 4},
            "pq_dim: .*at most 128 .*pq_bits = 4, got 129",
        ),
        ({"pq_dim": 1, "pq_len": 2048}, "2048 dimensions.*need 262144 bytes.*H100 has 232448"),
    ],
)
def test_unsupported_indexes(index: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GpuSearcher(random_index(**index), EmulatedDevice())


def test_more_items_than_row_numbers(index: Index) -> None:
    sizes = np.array([2**32 - 64, 33])
    huge = SimpleNamespace(params=index.params, n_items=int(sizes.sum()), list_sizes=sizes)
    with pytest.raises(ValueError, match=r"at most 134217727 groups .*got 134217728 of \d+ items"):
        index_shape(huge)


@needs_compiler
def test_dimensions_that_fill_the_shared_memory() -> None:
    index = random_index(pq_dim=4, pq_len=512, n_items=50)
    card = replace(EmulatedDevice().card, name="T4", shared_bytes_per_block=65536)
    device = EmulatedDevice(card=replace(card, shared_bytes_per_multiprocessor=65536))
    queries = random_queries(index, 9)
    assert_answers(index, GpuSearcher(index, device).search(queries, k=5), queries, k=5)


# ---- opening -------------------------------------------------------------------------------------


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
        r"gpu needs CuPy; install it with pip install 'merlin-poeem\[cu13\]'",
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
    assert (
        caplog.records[-1].getMessage().startswith("search backend: faiss, not gpu: backend: gpu")
    )


@needs_compiler
def test_auto_takes_the_gpu_that_is_there(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu, "CupyDevice", EmulatedDevice)
    with caplog.at_level(logging.INFO, "merlin_poeem"):
        assert open_searcher(index).backend == "gpu"
        assert caplog.messages[-1] == "search backend: gpu"
        too_wide = random_index(pq_bits=12)
        assert open_searcher(too_wide).backend == "faiss"
        assert "faiss, not gpu: pq_bits: expected at most 8" in caplog.messages[-1]
        monkeypatch.setattr(gpu, "CupyDevice", lambda: EmulatedDevice(free_bytes=1000))
        assert open_searcher(index).backend == "faiss"
        assert "faiss, not gpu: index: expected at most 1000 bytes" in caplog.messages[-1]


def test_unknown_backend(index: Index) -> None:
    with pytest.raises(ValueError, match="one of gpu, faiss, reference, auto; got 'cuda'"):
        open_searcher(index, "cuda")


def test_each_stream_has_its_own_masks() -> None:
    index = random_index()
    device = EmulatedDevice()
    searcher, sold_out = GpuSearcher(index, device), ItemSet(index.item_ids[:50])
    queries = random_queries(index, 3)
    for stream, n_made in ((1, 1), (1, 1), (2, 2), (1, 2)):
        device.current_stream = stream
        searcher.search(queries, k=5, exclude=sold_out)
        made = [launch for launch in device.launches if launch.name == "mark_items"]
        assert len(made) == n_made
