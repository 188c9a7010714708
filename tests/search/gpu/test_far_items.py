"""Items far longer than the others: they take no digits from the scores of the others."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem import Index, ItemSet
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search import reference
from merlin_poeem.search.gpu.bulk_plan import BulkPlan, plan_bulk
from merlin_poeem.search.gpu.index_shape import has_even_codewords, index_shape
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import (
    assert_answers,
    random_index,
    random_queries,
    with_far_codeword,
)
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.device import H100, EmulatedDevice
from tests.search.gpu.openers import BULK, COMPACT, SPLIT, ReplannedSearcher, needs_compiler

pytestmark = needs_compiler

SCAN = {"captured_batch": None}
WAYS: dict[str, dict[str, Any]] = {
    "scan": SCAN,
    "lists split": SPLIT,
    "compact LUT": COMPACT,
    "in bulk": {**BULK, "bulk": BulkPlan(1, 4096)},
    "in bulk, no room": {**BULK, "bulk": BulkPlan(1, 1)},
    "graph": {},
}
FAR_LIST = 7


def open_way(index: Index, way: str) -> GpuSearcher:
    return ReplannedSearcher(index, EmulatedDevice("random"), **WAYS[way])


def with_far_list(index: Index, size: float, n_items: int = 2) -> Index:
    """``n_items`` in a list of their own, its centroid about ``size`` long."""
    centroids = index.quantization.coarse_centroids.copy()
    centroids[FAR_LIST] *= np.float32(size)
    lists = index.list_ids.copy()
    lists[:n_items] = FAR_LIST
    quantization = replace(index.quantization, coarse_centroids=centroids)
    codes = replace(index.item_codes, list_ids=lists)
    return Index.from_codes(index.params, quantization, codes)


def is_ordinary(index: Index) -> np.ndarray:
    """(n_items,) bool: neither in the far list nor of the far codeword."""
    return (index.list_ids != FAR_LIST) & (index.codes[:, 0] != 0)


def scores_by_row(index: Index, found: Any) -> np.ndarray:
    """(n, n_items) scores of a search for all items."""
    order = np.argsort(index.item_ids)
    scores = np.empty((len(found), len(index)), np.float32)
    for i in range(len(found)):
        of_query, item_ids = found[i]
        scores[i, order[np.searchsorted(index.item_ids[order], item_ids)]] = of_query
    return scores


@st.composite
def far_indexes(draw: st.DrawFn) -> Index:
    """Small catalogs with items 1e3 to 1e10 times longer than the others."""
    index = random_index(
        draw(st.sampled_from(METRICS)),
        n_items=150,
        pq_bits=draw(st.sampled_from([4, 8])),
        rotation=draw(st.booleans()),
        encodes_residual=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    size = 10.0 ** draw(st.integers(3, 10))
    far = draw(st.sampled_from(["list", "codeword", "both"]))
    if far != "codeword":
        index = with_far_list(index, size)
    return index if far == "list" else with_far_codeword(index, size)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=30)
@given(far_indexes(), st.integers(0, 2**16))
def test_ordinary_items_keep_their_digits(way: str, index: Index, seed: int) -> None:
    queries = random_queries(index, 6, seed)
    search = {"k": len(index), "n_probes": index.n_lists}
    ordinary = is_ordinary(index)
    expected = scores_by_row(index, reference.search(index, queries, **search))[:, ordinary]
    searcher = open_way(index, way)
    got = scores_by_row(index, searcher.search(queries, **search))[:, ordinary]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # The best of them, once the far ones are hidden: the definition's scale is then theirs.
    search = {"k": 10, "n_probes": index.n_lists, "exclude": ItemSet(index.item_ids[~ordinary])}
    assert_answers(index, searcher.search(queries, **search), queries, **search)


@settings(max_examples=30)
@given(far_indexes(), st.integers(0, 2**16), st.integers(1, 30))
def test_every_way_gives_the_same_bits(index: Index, seed: int, k: int) -> None:
    queries = random_queries(index, 6, seed)
    search = {"k": k, "n_probes": index.n_lists}
    expected = open_way(index, "scan").search(queries, **search)
    for way in WAYS:
        if way != "compact LUT":  # a library multiplies its queries with the lists
            assert_same(open_way(index, way).search(queries, **search), expected)


@settings(max_examples=30)
@given(far_indexes(), st.integers(0, 2**16))
def test_parts_of_a_catalog_score_their_items_alike(index: Index, seed: int) -> None:
    queries = random_queries(index, 4, seed)
    search = {"k": len(index), "n_probes": index.n_lists}
    whole = scores_by_row(index, open_way(index, "graph").search(queries, **search))
    for n in (2, 3):
        part = index.remove(index.item_ids[::n])
        of_part = scores_by_row(part, open_way(part, "graph").search(queries, **search))
        held = np.isin(index.item_ids, part.item_ids)
        np.testing.assert_array_equal(of_part, whole[:, held])


@pytest.mark.parametrize("layout", ["spread", "compact"])
@pytest.mark.parametrize("code_bytes", [4, 8, 12, 16, 36, 64])
def test_sums_of_floats_are_the_same_in_every_lane(code_bytes: int, layout: str) -> None:
    # Items with the same codes, and nothing else that tells them apart.
    sizes = {"n_items": 300, "pq_dim": code_bytes, "pq_len": 1, "n_lists": 1}
    even = random_index(**sizes, n_repeated=250, scales=False)
    index = with_far_codeword(even, 1e6)
    device = EmulatedDevice()
    searcher = ReplannedSearcher(index, device, lut_layout=layout, **SCAN)
    queries = random_queries(index, 5)
    scores = scores_by_row(index, searcher.search(queries, k=300))
    name = f"scan<{code_bytes}, {'true' if layout == 'spread' else 'false'}, false, false>"
    assert name in {launch.name for launch in device.launches}
    _, kinds = np.unique(index.codes, axis=0, return_inverse=True)
    first = np.unique(kinds, return_index=True)[1]
    np.testing.assert_array_equal(scores, scores[:, first[kinds.ravel()]])
    search = {"k": 20, "exclude": ItemSet(index.item_ids[index.codes[:, 0] == 0])}
    assert_answers(index, searcher.search(queries, **search), queries, **search)


@pytest.mark.parametrize("way", WAYS)
def test_queries_near_a_second_cluster(way: str) -> None:
    # Far from the origin, which is in the first: by squares of lengths nothing would be left.
    index = with_far_list(random_index("l2"), 100, n_items=50)
    centre = index.quantization.coarse_centroids[FAR_LIST]
    queries = random_queries(index, 12) + centre
    near = ItemSet(index.item_ids[index.list_ids == FAR_LIST])
    search = {"k": 10, "n_probes": index.n_lists, "allow": near}
    assert_answers(index, open_way(index, way).search(queries, **search), queries, **search)


@pytest.mark.parametrize("metric", METRICS)
def test_a_far_codeword_is_summed_in_floats_and_not_in_bulk(metric: str) -> None:
    index = random_index(metric)
    far = with_far_codeword(index, 1e4)
    shapes = [index_shape(each) for each in (index, far)]
    assert [shape.fixed_point for shape in shapes] == [True, False]
    assert [plan_bulk(H100, shape, 1, 2) is None for shape in shapes] == [False, True]


def test_codewords_of_zeros_are_even() -> None:
    assert has_even_codewords(np.zeros((2, 16, 3), np.float32))
