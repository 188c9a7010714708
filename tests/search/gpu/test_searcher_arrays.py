"""The arrays of the GPU searcher: on the host and the device, padded, of other libraries."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from merlin_poeem import IdLists, Index
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.device_arrays import TensorFlowTensor, TorchTensor, counting_reads, hidden
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_item_set,
    random_queries,
)
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.openers import BULK, SPLIT, ReplannedSearcher, needs_compiler, open_emulated


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
