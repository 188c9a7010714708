"""What the GPU searcher keeps for searches that come again: graphs, and bitmaps of item sets."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem import ItemSet
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu import searcher as gpu
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import (
    assert_answers,
    random_index,
    random_item_set,
    random_queries,
)
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.openers import needs_compiler, open_emulated


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
