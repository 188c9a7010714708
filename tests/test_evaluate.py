"""Quality and cost measures against counts done by hand or by the plainest code."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from merlin_poeem import Candidates, IdLists, Index, ItemCodes, load_index, save_index
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
from merlin_poeem.quantization.stored_vectors import VectorDtype
from merlin_poeem.search import reference
from tests.index_factories import Rotation, random_index, random_queries

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


FEW_IDS = st.sampled_from([-(2**63), -7, -1, 0, 2, 3, 2**63 - 1])


@st.composite
def judged_searches(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], int]:
    """Found and relevant ids of some queries, with repeats, and a ``k``."""
    n_queries = draw(st.integers(1, 4))
    rows = [
        draw(st.lists(st.lists(FEW_IDS, max_size=9), min_size=n_queries, max_size=n_queries))
        for _ in range(2)
    ]
    rows[1][0].append(draw(FEW_IDS))
    return rows[0], rows[1], draw(st.integers(1, 9))


def by_sets(found: list[list[int]], relevant: list[list[int]], k: int) -> list[float]:
    """Recall, precision and NDCG, one result at a time."""
    rows = []
    for ids, wanted in zip(found, map(set, relevant), strict=True):
        if wanted:
            ranks = [i for i, each in enumerate(ids[:k]) if each in wanted and each not in ids[:i]]
            best = sum(1 / np.log2(i + 2) for i in range(min(k, len(wanted))))
            gain = sum(1 / np.log2(i + 2) for i in ranks)
            rows.append((len(ranks) / len(wanted), len(ranks) / k, gain / best))
    return np.mean(rows, axis=0).tolist()


@given(judged_searches())
def test_measures_of_any_ids(case: tuple[list[list[int]], list[list[int]], int]) -> None:
    found, relevant, k = case
    padding = 5  # relevant to no query
    padded = [(ids + [padding] * 9)[:9] for ids in found]
    expected = by_sets(found, relevant, k)
    for given_ids in (found_rows(*found), padded, np.array(padded)):
        got = [
            measure(given_ids, relevant, k) for measure in (recall_at_k, precision_at_k, ndcg_at_k)
        ]
        assert got == pytest.approx(expected)
        assert min(got) >= 0
        assert max(got) <= 1


@given(judged_searches())
def test_agreement_of_any_ids(case: tuple[list[list[int]], list[list[int]], int]) -> None:
    found, exact, k = case
    recall = by_sets(found, [ids[:k] for ids in exact], k)[0]
    got = agreement(found_rows(*found), found_rows(*exact), k)
    assert got == pytest.approx(recall)
    assert 0 <= got <= 1


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 200))))
def test_ndcg_of_everything_found_is_one(ids: np.ndarray) -> None:
    """Though the gains are summed in two orders."""
    distinct = [list(dict.fromkeys(row)) for row in ids.tolist()]
    assert ndcg_at_k(found_rows(*distinct), ids, 200) == pytest.approx(1)
    assert ndcg_at_k(found_rows(*distinct), ids, 200) <= 1


def test_found_frames_are_refused() -> None:
    class Table:
        columns = ("item_id",)

    Table.__module__ = "pyarrow.lib"
    for frame, name in ((pd.DataFrame({"item_id": [1]}), "pandas.DataFrame"), (Table(), "pyarrow")):
        with pytest.raises(TypeError, match=f"found: expected Candidates, .* got {name}"):
            recall_at_k(frame, [[1]], 1)


def test_what_is_on_the_device_is_judged_on_the_host(cupy: Any) -> None:
    relevant = IdLists(cupy.asarray([0, 1]), cupy.asarray([6]))
    assert recall_at_k(cupy.asarray([[5, 6]]), relevant, 2) == 1
    found = Candidates(*map(cupy.asarray, ([1], np.ones(1, "f4"), [6])))
    assert agreement(found, found, 2) == 1
    vectors = cupy.asarray(np.eye(3, dtype=np.float32))
    none = IdLists(cupy.asarray([0, 1, 1, 1]), cupy.asarray([8]))
    got = exact_search(cupy.asarray([7, 8, 9]), vectors, vectors, k=1, exclude=none)
    assert got.item_ids.tolist() == [7, 8, 9]
    index = random_index()
    queries = random_queries(index, 3)
    expected = items_scanned(index, queries)
    assert items_scanned(index, cupy.asarray(queries)).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("found", "relevant", "k", "error", "message"),
    [
        (found_rows([1]), [[1]], 0, ValueError, "k: expected at least 1"),
        (found_rows([1]), [[1], [2]], 1, ValueError, "relevant: expected 1 lists"),
        (found_rows([1]), [[]], 1, ValueError, "relevant: expected a query with a relevant item"),
        (np.zeros((1, 2), np.int64), [[1]], 3, ValueError, r"at least 3\), got \(1, 2\)"),
        (np.zeros((1, 2)), [[1]], 2, TypeError, "found: .* got numpy.ndarray of float64"),
        ([[1.5, 2]], [[1]], 2, TypeError, r"found: expected integers, got 1.5 \(float\)"),
        ([[1], [2, 3]], [[1], [2]], 1, ValueError, r"found: expected shape .* got \(2,\)"),
        (np.uint64([[2**63]]), [[1]], 1, ValueError, "found: .*int64, got 9223372036854775808"),
        ([[-1, 2**63]], [[1]], 2, ValueError, "found: expected values that fit in int64"),
        (
            Candidates(np.array([1]), np.ones(1, np.float32), np.uint64([2**63])),
            [[1]],
            1,
            ValueError,
            "found.item_ids: expected values that fit in int64",
        ),
    ],
)
def test_bad_measures(found, relevant, k, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        recall_at_k(found, relevant, k)


def test_bad_agreement() -> None:
    found = found_rows([1])
    with pytest.raises(ValueError, match="exact: expected 1 lists, one a query; got 2"):
        agreement(found, found_rows([1], [2]), 1)
    with pytest.raises(ValueError, match="exact: expected a query with a relevant item, got none"):
        agreement(found, found_rows([]), 1)
    with pytest.raises(TypeError, match=r"exact: expected Candidates.* got numpy.ndarray of"):
        agreement(found, np.zeros((1, 1)), 1)
    with pytest.raises(TypeError, match="k: expected an integer"):
        agreement(found, found, 1.5)


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
    moved = ItemCodes(codes.item_ids, list_ids, codes.codes, codes.scales)
    return Index.from_codes(index.params, index.quantization, moved)


def test_list_balance() -> None:
    even = list_balance(with_list_sizes(10, 10, 10, 10))
    assert (even.max_over_mean, even.coefficient_of_variation, even.empty_lists) == (1, 0, 0)
    assert even.expected_items_scanned == 10
    uneven = list_balance(with_list_sizes(30, 10, 0, 0))
    assert (uneven.max_over_mean, uneven.empty_lists) == (3, 2)
    assert uneven.coefficient_of_variation == pytest.approx(np.std([30, 10, 0, 0]) / 10)
    assert uneven.expected_items_scanned == pytest.approx((900 + 100) / 40)


@pytest.mark.parametrize(
    ("metric", "rotation"),
    [*((metric, True) for metric in METRICS), ("inner_product", "stretched")],
)
def test_items_scanned_is_what_a_search_can_return(metric: str, rotation: Rotation) -> None:
    index = random_index(metric, rotation=rotation)
    queries = random_queries(index, 30)
    for n_probes in (None, 1, 8):
        everything = reference.search(index, queries, k=len(index), n_probes=n_probes)
        np.testing.assert_array_equal(items_scanned(index, queries, n_probes), everything.counts)


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize(
    ("pq_bits", "rotation"), [(4, True), (8, False), (12, False), (8, "stretched")]
)
def test_bytes_per_item_are_those_on_disk(
    pq_bits: int, rotation: Rotation, scales: bool, tmp_path: Path
) -> None:
    index = random_index(pq_bits=pq_bits, pq_dim=3, rotation=rotation, scales=scales)
    got = bytes_per_item(index)
    assert got.codes == {4: 2, 8: 3, 12: 6}[pq_bits]
    assert got.scale == scales
    assert got.item_id == 8
    save_index(index, tmp_path / "index")
    arrays = [np.load(file) for file in (tmp_path / "index").glob("*.npy")]
    assert got.total == pytest.approx(sum(array.nbytes for array in arrays) / len(index))
    assert bytes_per_item(load_index(tmp_path / "index")) == got


@pytest.mark.parametrize(("dtype", "n_bytes"), [("float16", 2 * 16 + 4), ("int8", 16 + 4)])
def test_bytes_of_stored_vectors(dtype: VectorDtype, n_bytes: int, tmp_path: Path) -> None:
    index = random_index(vectors=dtype)
    got, without = bytes_per_item(index), bytes_per_item(index.without_vectors())
    assert (got.vectors, without.vectors) == (n_bytes, 0)
    assert got.total == pytest.approx(without.total + n_bytes)
    save_index(index, tmp_path / "index")
    arrays = [np.load(file) for file in (tmp_path / "index").glob("*.npy")]
    assert got.total == pytest.approx(sum(array.nbytes for array in arrays) / len(index))


def test_empty_index_has_no_balance() -> None:
    for measure in (list_balance, bytes_per_item):
        with pytest.raises(ValueError, match="expected at least one item, got an empty index"):
            measure(random_index(n_items=0))


@pytest.mark.parametrize("offset", [0, 1e3, 1e5])
@pytest.mark.parametrize("far", [None, 1e10])
def test_exact_distances_of_vectors_far_from_zero(offset: float, far: float | None) -> None:
    rng = np.random.default_rng(0)
    # In steps that float32 still has at the offset.
    vectors = (rng.integers(-64, 64, (300, 8)) + offset).astype(np.float32)
    queries = vectors[:20] + np.float32(1)
    if far is not None:
        vectors[7] = far
    found = exact_search(np.arange(300), vectors, queries, k=10, metric="l2")
    differences = queries.astype(np.float64)[:, None] - vectors
    distances = (differences**2).sum(axis=2)
    expected = np.sort(distances, axis=1)[:, :10]
    np.testing.assert_allclose(-found.scores.reshape(20, 10), expected, rtol=1e-5)
