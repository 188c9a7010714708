"""The NumPy definition of search, against definitions that are shorter still."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.search import reference
from tests.quantization.test_coding import DIM, N_LISTS, PQ_DIM, make_quantization

METRICS = ["inner_product", "cosine", "l2"]


def make_index(metric: str, n_items: int = 60, *, scales: bool = True, **changes: Any) -> Index:
    """With ``scales`` unless the metric is l2; half the items have the same."""
    scales = scales and metric != "l2"
    quantization = make_quantization(scales=scales, **changes)
    item_scales = np.random.default_rng(3).integers(0, 256, n_items).astype(np.uint8)
    item_scales[::2] = 99
    rng = np.random.default_rng(1)
    params = IVFPQParams(
        n_lists=N_LISTS, pq_dim=PQ_DIM, pq_bits=quantization.pq_bits, metric=metric, n_probes=2
    )
    item_codes = ItemCodes(
        (1 << 42) + rng.permutation(n_items),
        rng.integers(0, N_LISTS - 1, n_items),
        rng.integers(0, 3, (n_items, PQ_DIM)).astype(quantization.code_dtype),  # many equal codes
        item_scales if scales else None,
    )
    return Index.from_codes(params, quantization, item_codes)


def queries(n: int = 5) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(n, DIM)).astype(np.float32)


def naive_search(index: Index, query: np.ndarray, k: int, n_probes: int) -> list[tuple[float, int]]:
    """Score each item's reconstruction, straight from the definition of the metric."""
    metric, quantization = index.params.metric, index.quantization
    query_rot = quantization.rotate(query[None])[0].astype(np.float64)
    centroids = quantization.coarse_centroids.astype(np.float64)
    if metric == "l2":
        of_lists = -((centroids - query_rot) ** 2).sum(axis=1)
    else:
        of_lists = centroids @ query_rot
    if metric == "inner_product":
        of_lists *= naive_list_factors(index)
    probed = np.argsort(-of_lists, kind="stable")[:n_probes]
    decoded = coding.decode(quantization, *index.coded(slice(None))).astype(np.float64)
    found = []
    for row in np.flatnonzero(np.isin(index.list_ids, probed)):
        score = float(query @ decoded[row])
        if metric == "l2":
            score = -float(((query - decoded[row]) ** 2).sum())
        if metric == "cosine":
            score /= float(np.linalg.norm(query))
            if index.scales is None:
                score /= float(np.linalg.norm(decoded[row]))
        found.append((round(score, 3), int(index.item_ids[row])))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]


def naive_list_factors(index: Index) -> np.ndarray:
    """Mean length of a list's items over its centroid's; 1 where it is empty."""
    decoded = index.decode(index.item_ids)
    factors = np.ones(index.n_lists)
    for list_id, centroid in enumerate(index.quantization.coarse_centroids):
        lengths = np.linalg.norm(decoded[index.list_ids == list_id], axis=1)
        if len(lengths):
            factors[list_id] = lengths.mean() / np.linalg.norm(centroid)
    return factors


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("n_probes", [1, 2, N_LISTS])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("encodes_residual", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_search_by_definition(
    metric: str, encodes_residual: bool, rotated: bool, n_probes: int, scales: bool
) -> None:
    index = make_index(metric, rotated=rotated, encodes_residual=encodes_residual, scales=scales)
    found = reference.search(index, queries(), k=100, n_probes=n_probes)
    for i, query in enumerate(queries()):
        expected = naive_search(index, query, 100, n_probes)
        scores, item_ids = found[i]
        assert sorted(item_ids) == sorted(item_id for _, item_id in expected)
        np.testing.assert_allclose(scores, [score for score, _ in expected], atol=2e-3)
        assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_items_come_in_order_of_their_ids(metric: str) -> None:
    index = make_index(metric, n_items=300)  # 3 lists x 27 codes
    scores, item_ids = reference.search(index, queries(1), k=300, n_probes=N_LISTS)[0]
    rows = index.rows_of(item_ids)
    same = np.diff(index.list_ids[rows]) == 0
    same &= (np.diff(index.codes[rows].astype(int), axis=0) == 0).all(axis=1)
    if index.scales is not None:
        same &= np.diff(index.scales[rows].astype(int)) == 0
    assert same.sum() > 50
    assert (np.diff(scores)[same] == 0).all()
    assert (np.diff(item_ids)[same] > 0).all()


def test_default_n_probes_is_the_index_own() -> None:
    index = make_index("l2")
    default = reference.search(index, queries(), k=60)
    named = reference.search(index, queries(), k=60, n_probes=2)
    np.testing.assert_array_equal(default.item_ids, named.item_ids)
    assert default.counts.sum() < reference.search(index, queries(), k=60, n_probes=4).counts.sum()


@pytest.mark.parametrize("metric", METRICS)
def test_k_is_a_prefix(metric: str) -> None:
    index = make_index(metric)
    whole = reference.search(index, queries(), k=100, n_probes=N_LISTS)
    few = reference.search(index, queries(), k=7, n_probes=N_LISTS)
    assert whole.counts.tolist() == [60] * 5
    for i in range(5):
        np.testing.assert_array_equal(few[i][1], whole[i][1][:7])
        np.testing.assert_array_equal(few[i][0], whole[i][0][:7])


@given(data=st.data())
def test_exclude_and_allow(data: st.DataObject) -> None:
    index = make_index("inner_product")
    some_ids = st.lists(st.sampled_from([*index.item_ids.tolist(), 5, -1]), max_size=70)
    exclude = data.draw(st.lists(some_ids, min_size=2, max_size=2))
    allow = data.draw(st.lists(some_ids, min_size=2, max_size=2))
    whole = reference.search(index, queries(2), k=60, n_probes=N_LISTS)
    found = reference.search(index, queries(2), k=6, n_probes=N_LISTS, exclude=exclude, allow=allow)
    for i in range(2):
        kept = [x for x in whole[i][1].tolist() if x in allow[i] and x not in exclude[i]]
        assert found[i][1].tolist() == kept[:6]


def test_no_items_no_queries() -> None:
    assert reference.search(make_index("l2", 0), queries(2), k=3).counts.tolist() == [0, 0]
    assert len(reference.search(make_index("l2"), queries(0), k=3)) == 0


def test_zero_query_and_zero_item_have_cosine_0() -> None:
    quantization = Quantization(
        np.zeros((1, 2), np.float32), np.array([[[0, 0], [3, 4]]], np.float32)
    )
    params = IVFPQParams(n_lists=1, pq_dim=1, pq_bits=1, metric="cosine")
    index = Index.from_codes(params, quantization, ItemCodes([1, 2], [0, 0], np.uint8([[0], [1]])))
    vectors = np.array([[0, 0], [6, 8]], np.float32)
    found = reference.search(index, vectors, k=2)
    np.testing.assert_allclose(found.scores, [0, 0, 1, 0], atol=1e-6)
    assert found.item_ids.tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"k": -3}, ValueError, "k: expected at least 1, got -3"),
        ({"k": 1.5}, TypeError, "k: expected an integer"),
        ({"n_probes": 5}, ValueError, "n_probes: expected at most n_lists = 4, got 5"),
        ({"n_probes": 0}, ValueError, "n_probes: expected at least 1"),
        ({"exclude": [[1]]}, ValueError, "exclude: expected 5 lists"),
        ({"allow": [[1]]}, ValueError, "allow: expected 5 lists"),
        ({"exclude": [[0.5]] * 5}, TypeError, "id list: expected integers"),
        ({"queries": queries().astype(np.float64)}, TypeError, "queries: expected float32"),
        ({"queries": queries()[:, :3]}, ValueError, r"queries: expected shape \(n, 6\)"),
        ({"queries": queries()[0]}, ValueError, "queries: expected two dimensions"),
        ({"queries": queries() * np.float32(np.inf)}, ValueError, "queries: expected finite"),
    ],
)
def test_search_refuses(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    values = {"queries": queries(), "k": 3, **arguments}
    with pytest.raises(error, match=message):
        reference.search(make_index("l2"), values.pop("queries"), **values)
