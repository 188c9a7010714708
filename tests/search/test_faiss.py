"""Faiss: what the contract test cannot see of the searcher, and indexes converted both ways."""

from typing import Any

import faiss
import numpy as np
import pytest

from merlin_poeem import Index, ItemCodes, IVFPQParams, open_searcher
from merlin_poeem.convert.faiss import from_faiss, to_faiss
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search import reference
from merlin_poeem.search.faiss import portions
from merlin_poeem.search.faiss.searcher import COSINE_WIDTH, FaissSearcher
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_item_set,
    random_quantization,
    random_queries,
)


def assert_same_index(got: Index, expected: Index) -> None:
    """Every array and parameter."""
    assert got.params == expected.params
    np.testing.assert_array_equal(got.list_offsets, expected.list_offsets)
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    np.testing.assert_array_equal(got.packed_codes, expected.packed_codes)
    ours, theirs = got.quantization, expected.quantization
    assert ours.encodes_residual == theirs.encodes_residual
    np.testing.assert_array_equal(ours.coarse_centroids, theirs.coarse_centroids)
    np.testing.assert_array_equal(ours.codebook, theirs.codebook)
    if theirs.rotation is None:
        assert ours.rotation is None
    else:
        np.testing.assert_array_equal(ours.rotation, theirs.rotation)


@pytest.mark.parametrize("encodes_residual", [True, False])
@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("pq_bits", [1, 4, 5, 8, 9, 12, 16])
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_round_trip(
    metric: str, pq_bits: int, rotation: bool, encodes_residual: bool, tmp_path: Any
) -> None:
    index = random_index(
        metric,
        pq_bits=pq_bits,
        pq_dim=3,
        rotation=rotation,
        encodes_residual=encodes_residual,
        n_lists=4,
    )
    exported = to_faiss(index)
    assert exported.ntotal == len(index)
    assert_same_index(from_faiss(exported), index)
    faiss.write_index(exported, str(tmp_path / "index.faiss"))
    assert_same_index(from_faiss(faiss.read_index(str(tmp_path / "index.faiss"))), index)


@pytest.mark.parametrize("pq_bits", [4, 8, 10])
@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_exported_index_answers_as_ours(metric: str, rotation: bool, pq_bits: int) -> None:
    index = random_index(metric, pq_bits=pq_bits, rotation=rotation, n_repeated=0)
    queries = random_queries(index, 10)
    expected = reference.search(index, queries, k=20)
    scores, item_ids = to_faiss(index).search(queries, 20)
    scores = -scores if metric == "l2" else scores
    scale = np.abs(expected.scores).max()
    np.testing.assert_allclose(scores.ravel(), expected.scores, rtol=0, atol=1e-5 * scale)
    assert (item_ids.ravel() == expected.item_ids).mean() > 0.98


def test_cosine_is_exported_only_as_inner_product() -> None:
    index = random_index("cosine", rotation=True)
    with pytest.raises(ValueError, match="expected inner_product or l2, all that Faiss has"):
        to_faiss(index)
    exported = to_faiss(index, metric="inner_product")
    assert_same_index(from_faiss(exported, metric="cosine"), index)


def test_negative_ids_are_not_exported() -> None:
    index = random_index()
    codes = ItemCodes(index.item_ids - index.item_ids.min() - 1, index.list_ids, index.codes)
    with pytest.raises(ValueError, match="none below 0, as Faiss pads with −1; got -1"):
        to_faiss(Index.from_codes(index.params, index.quantization, codes))


def test_empty_index_round_trips() -> None:
    index = random_index(n_items=0)
    assert_same_index(from_faiss(to_faiss(index)), index)


def test_index_trained_by_faiss_is_taken_over() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 16)).astype(np.float32)
    theirs = faiss.index_factory(16, "OPQ4,IVF8,PQ4x4", faiss.METRIC_L2)
    theirs.train(vectors)
    theirs.add_with_ids(vectors, np.arange(2000) * 5 + 2**41)
    faiss.extract_index_ivf(theirs).nprobe = 3
    index = from_faiss(theirs)
    assert index.params == IVFPQParams(n_lists=8, pq_dim=4, pq_bits=4, metric="l2", n_probes=3)
    scores, item_ids = theirs.search(vectors[:10], 5)
    got = open_searcher(index, "faiss").search(vectors[:10], k=5)
    np.testing.assert_allclose(-got.scores, scores.ravel(), rtol=1e-4, atol=1e-4)
    assert (got.item_ids == item_ids.ravel()).mean() > 0.95


def faiss_with(transform: Any) -> Any:
    """A trained index after ``transform``."""
    inner = to_faiss(random_index())
    transform.is_trained = True
    pre_transform = faiss.IndexPreTransform(transform, inner)
    transform.this.disown()
    inner.this.disown()
    pre_transform.own_fields = True
    return pre_transform


def linear(matrix: np.ndarray, bias: bool = False) -> Any:
    """A LinearTransform by (d_out, d_in) ``matrix``."""
    transform = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], bias)
    faiss.copy_array_to_vector(matrix.astype(np.float32).ravel(), transform.A)
    if bias:
        faiss.copy_array_to_vector(np.ones(matrix.shape[0], np.float32), transform.b)
    return transform


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: "index.faiss", TypeError, "expected a Faiss index, got str"),
        (lambda: faiss.IndexFlatIP(8), TypeError, "expected IndexIVFPQ, .*; got IndexFlatIP"),
        (lambda: faiss.index_factory(16, "IVF8,PQ4x4"), ValueError, "expected a trained index"),
        (
            lambda: faiss_with(faiss.NormalizationTransform(16)),
            TypeError,
            "expected a LinearTransform before it, got NormalizationTransform",
        ),
        (
            lambda: faiss_with(linear(np.eye(16)[:, :8].repeat(3, 1)[:, :20])),
            ValueError,
            "20 to 16",
        ),
        (lambda: faiss_with(linear(np.eye(16), bias=True)), ValueError, "with a bias"),
        (lambda: faiss_with(linear(2 * np.eye(16))), ValueError, "expected an orthogonal matrix"),
    ],
)
def test_foreign_indexes_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_faiss(make())


def test_other_metrics_and_chains_are_refused() -> None:
    other = to_faiss(random_index())
    other.metric_type = faiss.METRIC_L1
    with pytest.raises(TypeError, match="expected METRIC_INNER_PRODUCT or METRIC_L2"):
        from_faiss(other)
    chained = faiss_with(linear(np.eye(16)))
    first = linear(np.eye(16))
    chained.prepend_transform(first)
    first.this.disown()
    with pytest.raises(TypeError, match="expected one transform before it, got 2"):
        from_faiss(chained)


@pytest.mark.parametrize("filters", ["none", "exclude", "allow"])
@pytest.mark.parametrize("metric", METRICS)
def test_answers_in_little_memory(
    metric: str, filters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = random_index(metric)
    queries = random_queries(index, 40)
    lists = {} if filters == "none" else {filters: random_id_lists(index, 40, 200)}
    monkeypatch.setattr(portions, "CHUNK_BYTES", 1000)
    got = open_searcher(index, "faiss").search(queries, k=30, **lists)
    assert_answers(index, got, queries, k=30, **lists)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_any_number_of_threads_answers_alike(n_threads: int) -> None:
    index = random_index("cosine", n_items=1000)
    queries = random_queries(index, 300)
    lists = random_id_lists(index, 300, 60)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads)
    try:
        got = open_searcher(index, "faiss").search(queries, k=20, exclude=lists)
        assert faiss.omp_get_max_threads() == n_threads
    finally:
        faiss.omp_set_num_threads(before)
    assert_answers(index, got, queries, k=20, exclude=lists)


def test_a_query_is_scanned_again_only_while_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index("cosine", n_items=3000, n_lists=4, filled_lists=4)
    searcher = open_searcher(index, "faiss")
    scanned: list[tuple[int, int]] = []
    scan = FaissSearcher._scan

    def record(self: Any, batch: Any, width: int) -> Any:
        scanned.append((len(batch.n_scanned), width))
        return scan(self, batch, width)

    monkeypatch.setattr(FaissSearcher, "_scan", record)
    queries = random_queries(index, 20)
    got = searcher.search(queries, k=5)
    assert scanned[0] == (20, 6 * COSINE_WIDTH)
    assert len(scanned) > 1
    assert all(width <= 3000 for _, width in scanned)
    assert_answers(index, got, queries, k=5)


def test_ties_across_the_last_place_beside_excluded_items() -> None:
    # The bound of what Faiss has not returned was once moved by what was dropped after it.
    index = random_index("inner_product", n_items=200, n_repeated=150, rotation=True)
    queries = random_queries(index, 30)[:7]
    exclude = random_id_lists(index, 30, 100)[:7]
    got = open_searcher(index, "faiss").search(queries, k=23, n_probes=5, exclude=exclude)
    assert_answers(index, got, queries, k=23, n_probes=5, exclude=exclude)


@pytest.mark.parametrize("name", ["exclude", "allow"])
def test_an_item_set_is_one_scan_for_all_queries(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = random_index(n_repeated=0)
    scanned: list[int] = []
    scan_lists = FaissSearcher._scan_lists

    def record(self: Any, batch: Any, queries: slice, *arguments: Any) -> None:
        scanned.append(len(batch.n_scanned[queries]))
        assert batch.item_filter.excluded is None
        assert batch.item_filter.allowed is None
        scan_lists(self, batch, queries, *arguments)

    monkeypatch.setattr(FaissSearcher, "_scan_lists", record)
    queries = random_queries(index, 20)
    item_set = random_item_set(index, 200)
    got = open_searcher(index, "faiss").search(queries, k=5, **{name: item_set})
    assert scanned == [20]
    assert_answers(index, got, queries, k=5, **{name: item_set})


def test_reconstructions_at_the_origin() -> None:
    # Cosine with x̂ = 0 is 0, by definition.
    quantization = random_quantization(np.random.default_rng(0), n_lists=2)
    zeroed = type(quantization)(
        np.zeros_like(quantization.coarse_centroids),
        np.where(np.arange(256)[:, None] == 0, 0, quantization.codebook).astype(np.float32),
    )
    codes = np.random.default_rng(1).integers(0, 2, (100, 4)).astype(np.uint8)
    params = IVFPQParams(n_lists=2, pq_dim=4, metric="cosine")
    items = ItemCodes(np.arange(100), np.arange(100) % 2, codes)
    index = Index.from_codes(params, zeroed, items)
    queries = random_queries(index, 10)
    for k in (5, 50, 100):
        got = open_searcher(index, "faiss").search(queries, k=k, n_probes=2)
        assert_answers(index, got, queries, k=k, n_probes=2)
