"""The NumPy definition, against definitions that are shorter still."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import reference
from merlin_poeem.index import Index
from merlin_poeem.item_codes import ItemCodes, Quantization
from merlin_poeem.params import IVFPQParams

METRICS = ["inner_product", "cosine", "l2"]
DIM, N_LISTS, PQ_DIM, PQ_LEN = 6, 4, 3, 2


def make_quantization(
    pq_bits: int = 4, *, rotated: bool = True, encodes_residual: bool = True, seed: int = 0
) -> Quantization:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    return Quantization(
        # Far apart and codewords small: every point is nearest to its own list.
        (20 * rng.permutation(np.eye(DIM))[:N_LISTS]).astype(np.float32),
        rng.normal(size=(PQ_DIM, 1 << pq_bits, PQ_LEN)).astype(np.float32),
        rotation if rotated else None,
        encodes_residual,
    )


def make_index(metric: str, n_items: int = 60, **changes: Any) -> Index:
    quantization = make_quantization(**changes)
    rng = np.random.default_rng(1)
    params = IVFPQParams(
        n_lists=N_LISTS, pq_dim=PQ_DIM, pq_bits=quantization.pq_bits, metric=metric, n_probes=2
    )
    item_codes = ItemCodes(
        (1 << 42) + rng.permutation(n_items),
        rng.integers(0, N_LISTS - 1, n_items),
        rng.integers(0, 3, (n_items, PQ_DIM)).astype(quantization.code_dtype),  # many equal codes
    )
    return Index.from_codes(params, quantization, item_codes)


def queries(n: int = 5) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(n, DIM)).astype(np.float32)


# Encoding and decoding.


@pytest.mark.parametrize("encodes_residual", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("pq_bits", [1, 4, 8, 9])
def test_vectors_built_from_codewords_get_their_codes(
    pq_bits: int, rotated: bool, encodes_residual: bool
) -> None:
    quantization = make_quantization(pq_bits, rotated=rotated, encodes_residual=encodes_residual)
    rng = np.random.default_rng(3)
    list_ids = rng.integers(0, N_LISTS, 200).astype(np.int32)
    codes = rng.integers(0, 1 << pq_bits, (200, PQ_DIM)).astype(quantization.code_dtype)
    vectors = reference.decode(quantization, list_ids, codes)
    got_lists, got_codes = reference.encode(quantization, vectors)
    if encodes_residual:
        np.testing.assert_array_equal(got_lists, list_ids, strict=True)
    np.testing.assert_array_equal(got_codes, codes, strict=True)


@given(seed=st.integers(0, 1000), encodes_residual=st.booleans(), rotated=st.booleans())
def test_encoding_is_nearest_by_definition(
    seed: int, encodes_residual: bool, rotated: bool
) -> None:
    quantization = make_quantization(
        2, rotated=rotated, encodes_residual=encodes_residual, seed=seed
    )
    vectors = np.random.default_rng(seed).normal(size=(8, DIM)).astype(np.float32) * 8
    list_ids, codes = reference.encode(quantization, vectors)
    for x, list_id, code in zip(quantization.rotate(vectors), list_ids, codes, strict=True):
        to_lists = ((quantization.coarse_centroids - x) ** 2).sum(axis=1)
        assert to_lists[list_id] <= to_lists.min() + 1e-3
        target = x - quantization.coarse_centroids[list_id] if encodes_residual else x
        for m in range(PQ_DIM):
            part = target[m * PQ_LEN : (m + 1) * PQ_LEN]
            to_codewords = ((quantization.codebook[m] - part) ** 2).sum(axis=1)
            assert to_codewords[code[m]] <= to_codewords.min() + 1e-3


def test_ties_go_to_the_lower_number() -> None:
    quantization = Quantization(np.ones((3, 2), np.float32), np.ones((1, 4, 2), np.float32))
    list_ids, codes = reference.encode(quantization, np.zeros((5, 2), np.float32))
    assert not list_ids.any()
    assert not codes.any()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization, vectors = make_quantization(), queries(50)
    list_ids, codes = reference.encode(quantization, vectors)
    monkeypatch.setattr(reference, "CHUNK_BYTES", 4 * 16 * 7)  # seven rows
    chunked_lists, chunked_codes = reference.encode(quantization, vectors)
    np.testing.assert_array_equal(chunked_lists, list_ids)
    np.testing.assert_array_equal(chunked_codes, codes)


def test_decode_is_the_rotated_one_turned_back() -> None:
    quantization = make_quantization()
    list_ids, codes = np.array([1, 3], np.int32), np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    rotated = reference.decode_rotated(quantization, list_ids, codes)
    for row, list_id, code in zip(rotated, list_ids, codes, strict=True):
        parts = [quantization.codebook[m, code[m]] for m in range(PQ_DIM)]
        expected = np.concatenate(parts) + quantization.coarse_centroids[list_id]
        np.testing.assert_array_equal(row, expected)
    raw = reference.decode(quantization, list_ids, codes)
    np.testing.assert_allclose(quantization.rotate(raw), rotated, atol=1e-5)


def test_encode_nothing() -> None:
    list_ids, codes = reference.encode(make_quantization(), np.empty((0, DIM), np.float32))
    assert list_ids.shape == (0,)
    assert codes.shape == (0, PQ_DIM)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (np.zeros((2, DIM)), TypeError, "vectors: expected float32"),
        (np.zeros((2, DIM + 1), np.float32), ValueError, r"vectors: expected shape \(n, 6\)"),
        (np.full((2, DIM), np.nan, np.float32), ValueError, "vectors: expected finite"),
    ],
)
def test_encode_refuses(vectors: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference.encode(make_quantization(), vectors)


def test_lut() -> None:
    quantization = make_quantization()
    table = reference.lut(queries(2), quantization.codebook)
    assert table.shape == (2, PQ_DIM, 16)
    expected = queries(2)[1, 2:4] @ quantization.codebook[1, 7]
    np.testing.assert_allclose(table[1, 1, 7], expected, rtol=1e-6)


# Search.


def naive_search(index: Index, query: np.ndarray, k: int, n_probes: int) -> list[tuple[float, int]]:
    """Score each item's reconstruction, straight from the definition of the metric."""
    metric, quantization = index.params.metric, index.quantization
    query_rot = quantization.rotate(query[None])[0].astype(np.float64)
    centroids = quantization.coarse_centroids.astype(np.float64)
    if metric == "l2":
        of_lists = -((centroids - query_rot) ** 2).sum(axis=1)
    else:
        of_lists = centroids @ query_rot
    probed = np.argsort(-of_lists, kind="stable")[:n_probes]
    decoded = reference.decode(quantization, index.list_ids, index.codes).astype(np.float64)
    found = []
    for row in np.flatnonzero(np.isin(index.list_ids, probed)):
        score = float(query @ decoded[row])
        if metric == "l2":
            score = -float(((query - decoded[row]) ** 2).sum())
        if metric == "cosine":
            score /= float(np.linalg.norm(query) * np.linalg.norm(decoded[row]))
        found.append((round(score, 3), int(index.item_ids[row])))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]


@pytest.mark.parametrize("n_probes", [1, 2, N_LISTS])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("encodes_residual", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_search_by_definition(
    metric: str, encodes_residual: bool, rotated: bool, n_probes: int
) -> None:
    index = make_index(metric, rotated=rotated, encodes_residual=encodes_residual)
    found = reference.search(index, queries(), k=100, n_probes=n_probes)
    for i, query in enumerate(queries()):
        expected = naive_search(index, query, 100, n_probes)
        scores, item_ids = found[i]
        assert sorted(item_ids) == sorted(item_id for _, item_id in expected)
        np.testing.assert_allclose(scores, [score for score, _ in expected], atol=2e-3)
        assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_items_come_in_order_of_their_ids(metric: str) -> None:
    index = make_index(metric, n_items=200)  # 3 lists x 27 codes
    scores, item_ids = reference.search(index, queries(1), k=200, n_probes=N_LISTS)[0]
    rows = index.rows_of(item_ids)
    same = np.diff(index.list_ids[rows]) == 0
    same &= (np.diff(index.codes[rows].astype(int), axis=0) == 0).all(axis=1)
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
