"""Quality and cost measures against counts done by hand or by the plainest code."""

import numpy as np
import pytest

from merlin_poeem import Candidates, Index, ItemCodes, load_index, save_index
from merlin_poeem.evaluate import (
    agreement,
    bytes_per_item,
    exact_search,
    items_scanned,
    list_balance,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search import reference
from tests.index_factories import random_index, random_queries

BIG = 2**60


def found_rows(*rows: list[int]) -> Candidates:
    return Candidates.from_rows(
        [(np.arange(len(row), 0, -1).astype(np.float32), np.array(row, np.int64)) for row in rows]
    )


def test_measures_by_hand() -> None:
    found = found_rows([BIG, 2, 3, 4], [5, 6], [7])
    relevant = [[2, BIG, 9, 9], [1], []]
    # Query 0 finds 2 of 3, query 1 none of 1; query 2 has nothing to find.
    assert recall_at_k(found, relevant, 3) == pytest.approx((2 / 3 + 0) / 2)
    assert recall_at_k(found, relevant, 1) == pytest.approx((1 / 3 + 0) / 2)
    assert precision_at_k(found, relevant, 4) == pytest.approx((2 / 4 + 0) / 2)
    gains = 1 / np.log2([2, 3, 4])
    assert ndcg_at_k(found, relevant, 4) == pytest.approx((gains[0] + gains[1]) / gains.sum() / 2)
    assert ndcg_at_k(found, relevant, 1) == pytest.approx(1 / 2)


def test_padded_arrays_count_as_candidates_do() -> None:
    found = found_rows([3, 2, 1, 4], [5, 6], [])
    relevant = [[1, 2, 8], [6], [7]]
    padded = found.padded(4, fill_id=-1)[1]
    for measure in (recall_at_k, precision_at_k, ndcg_at_k):
        for k in (1, 2, 4):
            assert measure(found, relevant, k) == measure(padded, relevant, k)


def test_a_missing_result_is_never_a_hit() -> None:
    # Whatever id the padding has inside.
    assert recall_at_k(found_rows([], [5]), [[0], [5]], 3) == 0.5


def test_ranks_matter_to_ndcg_alone() -> None:
    early, late = found_rows([1, 2, 3]), found_rows([3, 2, 1])
    assert recall_at_k(early, [[1]], 3) == recall_at_k(late, [[1]], 3) == 1
    assert ndcg_at_k(early, [[1]], 3) == 1
    assert ndcg_at_k(late, [[1]], 3) == pytest.approx(1 / 2)


def test_agreement_is_the_overlap_with_exact() -> None:
    exact = found_rows([1, 2, 3, 4], [5, 6])
    assert agreement(exact, exact, 4) == 1
    assert agreement(found_rows([2, 1, 9, 8], [6, 5]), exact, 2) == 1
    assert agreement(found_rows([2, 1, 9, 8], [6]), exact, 4) == pytest.approx((2 / 4 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("found", "relevant", "k", "error", "message"),
    [
        (found_rows([1]), [[1]], 0, ValueError, "k: expected at least 1"),
        (found_rows([1]), [[1], [2]], 1, ValueError, "relevant: expected 1 lists"),
        (found_rows([1]), [[]], 1, ValueError, "relevant: expected a query with a relevant item"),
        (np.zeros((1, 2), np.int64), [[1]], 3, ValueError, r"at least 3\), got \(1, 2\)"),
        (np.zeros((1, 2)), [[1]], 2, TypeError, "found: expected integer item ids, got float64"),
    ],
)
def test_bad_measures(found, relevant, k, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        recall_at_k(found, relevant, k)


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merlin_poeem.evaluate.CHUNK_BYTES", 4000)
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (300, 4)).astype(np.float32) + np.float32(0.5)
    queries = rng.integers(-3, 4, (20, 4)).astype(np.float32) + np.float32(0.5)
    ids = rng.permutation(300) + BIG
    exclude = [rng.choice(ids, 30) for _ in queries]
    got = exact_search(ids, vectors, queries, k=50, metric=metric, exclude=exclude)
    for i, query in enumerate(queries.astype(np.float64)):
        items = vectors.astype(np.float64)
        scores = items @ query
        if metric == "l2":
            scores = -((items - query) ** 2).sum(axis=1)
        if metric == "cosine":
            scores /= np.linalg.norm(items, axis=1) * np.linalg.norm(query)
        scores[np.isin(ids, exclude[i])] = -np.inf
        best = np.lexsort((ids, -scores))[:50]
        np.testing.assert_allclose(got[i][0], scores[best], rtol=1e-5, atol=1e-5)
        if metric != "cosine":  # Small halves are exact in float32, so ties are too.
            np.testing.assert_array_equal(got[i][1], ids[best])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"metric": "dot"}, ValueError, "metric: expected one of"),
        ({"k": 0}, ValueError, "k: expected at least 1"),
        ({"item_ids": [1, 1]}, ValueError, "expected each id once"),
        ({"item_ids": [1]}, ValueError, "item_ids: expected 2, one a vector; got 1"),
        ({"queries": np.zeros((1, 4), "f4")}, ValueError, r"queries: expected shape \(n, 3\)"),
        ({"vectors": np.zeros((2, 3))}, TypeError, "vectors: expected float32"),
    ],
)
def test_bad_exact_search(change, error, message) -> None:  # type: ignore[no-untyped-def]
    arguments = {
        "item_ids": [1, 2],
        "vectors": np.zeros((2, 3), np.float32),
        "queries": np.zeros((1, 3), np.float32),
        "k": 1,
        **change,
    }
    with pytest.raises(error, match=message):
        exact_search(**arguments)


def with_list_sizes(*sizes: int) -> Index:
    index = random_index(n_lists=len(sizes), n_items=sum(sizes))
    codes = index.item_codes
    list_ids = np.repeat(np.arange(len(sizes)), sizes)
    moved = ItemCodes(codes.item_ids, list_ids, codes.codes)
    return Index.from_codes(index.params, index.quantization, moved)


def test_list_balance() -> None:
    even = list_balance(with_list_sizes(10, 10, 10, 10))
    assert (even.max_over_mean, even.coefficient_of_variation, even.empty_lists) == (1, 0, 0)
    assert even.expected_items_scanned == 10
    uneven = list_balance(with_list_sizes(30, 10, 0, 0))
    assert (uneven.max_over_mean, uneven.empty_lists) == (3, 2)
    assert uneven.coefficient_of_variation == pytest.approx(np.std([30, 10, 0, 0]) / 10)
    assert uneven.expected_items_scanned == pytest.approx((900 + 100) / 40)


@pytest.mark.parametrize("metric", METRICS)
def test_items_scanned_is_what_a_search_can_return(metric: str) -> None:
    index = random_index(metric, rotation=True)
    queries = random_queries(index, 30)
    for n_probes in (None, 1, 8):
        everything = reference.search(index, queries, k=len(index), n_probes=n_probes)
        np.testing.assert_array_equal(items_scanned(index, queries, n_probes), everything.counts)


@pytest.mark.parametrize(("pq_bits", "rotation"), [(4, True), (8, False), (12, False)])
def test_bytes_per_item_are_those_on_disk(pq_bits: int, rotation: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    index = random_index(pq_bits=pq_bits, pq_dim=3, rotation=rotation)
    got = bytes_per_item(index)
    assert got.codes == {4: 2, 8: 3, 12: 6}[pq_bits]
    assert got.item_id == 8
    save_index(index, tmp_path / "index")
    arrays = [np.load(file) for file in (tmp_path / "index").glob("*.npy")]
    assert got.total == pytest.approx(sum(array.nbytes for array in arrays) / len(index))
    assert bytes_per_item(load_index(tmp_path / "index")) == got


def test_empty_index_has_no_balance() -> None:
    for measure in (list_balance, bytes_per_item):
        with pytest.raises(ValueError, match="expected at least one item, got an empty index"):
            measure(random_index(n_items=0))
