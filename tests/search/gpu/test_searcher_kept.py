"""What the GPU searcher keeps for searches that come again: graphs, and bitmaps of item sets."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem import Candidates, Index, ItemSet
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu import kept_searches
from merlin_poeem.search.gpu import searcher as gpu
from merlin_poeem.search.gpu.plan import MAX_CAPTURED_BATCH, graph_batch
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import (
    assert_answers,
    random_index,
    random_item_set,
    random_queries,
)
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.openers import RecordingDevice, needs_compiler, open_emulated


@pytest.mark.parametrize(
    ("batch", "of_graph"), [(1, 1), (3, 4), (32, 32), (33, 40), (70, 80), (250, 256)]
)
def test_batches_are_recorded(searcher: GpuSearcher, batch: int, of_graph: int) -> None:
    assert searcher.plan(batch, 5).captured_batch == of_graph
    for seed in (1, 2):
        queries = random_queries(searcher.index, batch, seed)
        got = searcher.search(queries, k=5)
        assert_answers(searcher.index, got, queries, k=5)
    device = searcher.device
    assert device.n_captures == 1
    grids = {launch.grid[0] for launch in device.launches if launch.file == "lists.cu"}
    assert grids == {of_graph}


def test_large_batches_are_not_recorded(searcher: GpuSearcher) -> None:
    assert searcher.plan(MAX_CAPTURED_BATCH, 5).captured_batch == MAX_CAPTURED_BATCH
    assert searcher.plan(MAX_CAPTURED_BATCH + 1, 5).captured_batch is None


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


def test_places_left_over_hold_nothing_whatever_was_there(searcher: GpuSearcher) -> None:
    """Graphs share a workspace: what another search left there would be searched for too."""
    for batch in (250, 100, 250, 251, 250):
        queries = random_queries(searcher.index, batch, seed=batch)
        assert_answers(searcher.index, searcher.search(queries, k=5), queries, k=5)
        (kept,) = searcher._streams.values()
        rounded = graph_batch(batch)
        captured = kept.graph((rounded, 5, searcher.index.params.n_probes, 0), pytest.fail)
        np.testing.assert_array_equal(captured.queries[:batch], queries)
        assert np.isnan(captured.queries[batch:]).all()


def test_queries_may_lie_apart(searcher: GpuSearcher) -> None:
    index = searcher.index
    wide = np.zeros((6, 2 * index.dim), np.float32)
    wide[:, ::2] = random_queries(index, 6)
    for apart in (wide[:, ::2], wide[::2, ::2], np.asfortranarray(wide[:, ::2])):
        expected = searcher.search(np.ascontiguousarray(apart), k=5)
        assert_same(searcher.search(apart, k=5), expected)
        found = searcher.search_padded(apart, k=5)
        np.testing.assert_array_equal(found.item_ids.ravel(), expected.item_ids)


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
    with pytest.raises(ValueError, match=r"batch: expected 1 to 16384, .*got 16385 and 400 items"):
        open_emulated(random_index()).capture(16385, 5)
    small = open_emulated(random_index(), workspace_bytes=1 << 20)
    with pytest.raises(ValueError, match=r"no more than fit in workspace_bytes = 1048576, .*1000"):
        small.capture(1000, 5)
    with pytest.raises(ValueError, match=r"batch: expected .* holds items; got 1 and 0 items"):
        open_emulated(random_index(n_items=0)).capture(1, 5)


def test_oldest_graph_goes_first(searcher: GpuSearcher, monkeypatch: Any) -> None:
    monkeypatch.setattr(kept_searches, "KEPT_SEARCHES", 2)
    queries, device = random_queries(searcher.index, 1), searcher.device
    for k, n_captures in ((1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)):
        searcher.search(queries, k=k)
        assert device.n_captures == n_captures


def test_a_stream_has_one_workspace_that_grows(searcher: GpuSearcher) -> None:
    """Searches that came before a larger one are recorded anew, once, and stay right."""
    index, device = searcher.index, searcher.device
    for batch, n_captures in ((2, 1), (200, 2), (2, 3), (200, 3), (2, 3)):
        queries = random_queries(index, batch, seed=batch)
        assert_answers(index, searcher.search(queries, k=5), queries, k=5)
        assert device.n_captures == n_captures
    (kept,) = searcher._streams.values()
    assert kept.workspace(0).n_bytes < 4 * searcher.plan(200, 5).workspace_bytes


def test_a_workspace_may_be_no_larger_than_needed(index: Index) -> None:
    class Full:
        """A device whose memory holds no power of two."""

        @staticmethod
        def empty(n_bytes: int, dtype: Any) -> np.ndarray:
            if n_bytes > 700:
                raise MemoryError
            return np.empty(n_bytes, dtype)

    kept = kept_searches.KeptSearches(Full(), 10_000)  # type: ignore[arg-type]
    assert kept.workspace(600).n_bytes == 600
    with pytest.raises(MemoryError):
        kept.workspace(701)
    assert kept.workspace(500).n_bytes == 512


def test_searches_with_filters_push_no_graph_out(searcher: GpuSearcher, monkeypatch: Any) -> None:
    monkeypatch.setattr(kept_searches, "KEPT_SEARCHES", 2)
    searcher.search(random_queries(searcher.index, 5), k=5)
    for batch in (1, 2, 3, 4):
        searcher.search(random_queries(searcher.index, batch), k=5, exclude=ItemSet([1]))
    searcher.search(random_queries(searcher.index, 5), k=5)
    assert searcher.device.n_captures == 1


def test_a_captured_search_is_ready_on_any_stream(searcher: GpuSearcher, monkeypatch: Any) -> None:
    waited = []
    monkeypatch.setattr(searcher.device, "synchronize", lambda: waited.append(True))
    searcher.capture(3, 5)
    assert waited


def test_searches_that_share_a_workspace_do_not_disturb_each_other(searcher: GpuSearcher) -> None:
    index = searcher.index
    sold_out, lists = ItemSet(index.item_ids[::3]), [[1], [2], [3]]
    captured = searcher.capture(3, 5)
    for seed in range(2):
        queries = random_queries(index, 3, seed)
        for search in ({}, {"exclude": sold_out}, {"exclude": lists}, {"allow": sold_out}):
            found = searcher.search(queries, k=5, **search)
            assert_answers(index, found, queries, k=5, **search)
        captured.queries[:] = queries
        captured.replay()
        assert_same(searcher.search(queries, k=5), padded(captured.results))


def padded(results: Any) -> Candidates:
    return Candidates(results.counts, results.scores.ravel(), results.item_ids.ravel())


def test_each_stream_has_its_own_workspace(index: Index, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "KEPT_STREAMS", 2)
    device = RecordingDevice()
    searcher, queries = GpuSearcher(index, device), random_queries(index, 3)
    for stream, n_captures in ((1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)):
        device.current_stream = stream
        assert_answers(index, searcher.search(queries, k=5), queries, k=5)
        assert device.n_captures == n_captures


def test_threads_take_turns(searcher: GpuSearcher) -> None:
    index = searcher.index
    batches = [random_queries(index, n, seed=n) for n in range(1, 9)]
    expected = [searcher.search(queries, k=5) for queries in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda queries: searcher.search(queries, k=5), batches * 5))
    for got, right in zip(found, expected * 5, strict=True):
        assert_same(got, right)


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
