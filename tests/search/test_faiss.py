"""Faiss: what the contract test cannot see of the searcher, and indexes converted both ways."""

from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import Index, ItemCodes, IVFPQParams, open_searcher
from merlin_poeem.arrays import normalize
from merlin_poeem.convert.faiss import from_faiss, to_faiss
from merlin_poeem.evaluate import agreement
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.lengths import typical_length
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search import reference
from merlin_poeem.search.faiss import portions
from merlin_poeem.search.faiss.filters import Filter
from merlin_poeem.search.faiss.list_ties import ListTies
from merlin_poeem.search.faiss.scales import Scales
from merlin_poeem.search.faiss.searcher import COSINE_WIDTH, FaissSearcher
from merlin_poeem.search.faiss.targets import Targets
from merlin_poeem.search.ragged import Candidates
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
        scales=False,
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
    index = random_index(metric, pq_bits=pq_bits, rotation=rotation, n_repeated=0, scales=False)
    index = index.without_list_lengths()
    queries = random_queries(index, 10)
    expected = reference.search(index, queries, k=20)
    scores, item_ids = to_faiss(index).search(queries, 20)
    scores = -scores if metric == "l2" else scores
    scale = np.abs(expected.scores).max()
    np.testing.assert_allclose(scores.ravel(), expected.scores, rtol=0, atol=1e-5 * scale)
    assert (item_ids.ravel() == expected.item_ids).mean() > 0.98


def test_cosine_is_exported_only_as_inner_product() -> None:
    index = random_index("cosine", rotation=True, scales=False)
    with pytest.raises(ValueError, match="expected inner_product or l2, all that Faiss has"):
        to_faiss(index)
    exported = to_faiss(index, metric="inner_product")
    assert_same_index(from_faiss(exported, metric="cosine"), index)


def test_negative_ids_are_not_exported() -> None:
    index = random_index(scales=False)
    codes = ItemCodes(index.item_ids - index.item_ids.min() - 1, index.list_ids, index.codes)
    with pytest.raises(ValueError, match="none below 0, as Faiss pads with −1; got -1"):
        to_faiss(Index.from_codes(index.params, index.quantization, codes))


def test_empty_index_round_trips() -> None:
    index = random_index(n_items=0, scales=False)
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
    inner = to_faiss(random_index(scales=False))
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
    other = to_faiss(random_index(scales=False))
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
    index = random_index("cosine", n_items=3000, n_lists=4, filled_lists=4, scales=False)
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


SCALED_METRICS = ["inner_product", "cosine"]


def assert_same_bits(got: Candidates, expected: Candidates) -> None:
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    np.testing.assert_array_equal(got.scores, expected.scores)


def scan_for(monkeypatch: pytest.MonkeyPatch, factor: float, offset: float = 0) -> None:
    """Queries expect other scores of their k-th items than they would."""
    find = Targets.find
    monkeypatch.setattr(
        Targets, "find", lambda *a: np.float32(factor) * find(*a) + np.float32(offset)
    )


@pytest.mark.parametrize(
    ("factor", "offset"), [(0, 0), (0.3, 0), (3, 0), (100, 0), (0, 1e-3), (0, 1e8)]
)
@pytest.mark.parametrize("pq_bits", [4, 8])
@pytest.mark.parametrize("metric", SCALED_METRICS)
def test_scores_do_not_depend_on_what_is_expected(
    metric: str, pq_bits: int, factor: float, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = random_index(metric, pq_bits=pq_bits, n_items=2000)
    queries = random_queries(index, 20)
    expected = open_searcher(index, "faiss").search(queries, k=15, n_probes=6)
    assert_answers(index, expected, queries, k=15, n_probes=6)
    scan_for(monkeypatch, factor, offset)
    assert_same_bits(open_searcher(index, "faiss").search(queries, k=15, n_probes=6), expected)


@pytest.mark.parametrize("factor", [0, 10])
@pytest.mark.parametrize("metric", SCALED_METRICS)
def test_without_the_bound_items_would_be_missed(
    metric: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = random_index(metric, n_items=2000)
    queries = random_queries(index, 20)
    scan_for(monkeypatch, factor)
    monkeypatch.setattr(Scales, "bound", lambda self, batch, scores: np.full_like(scores, -np.inf))
    got = open_searcher(index, "faiss").search(queries, k=15, n_probes=6)
    with pytest.raises(AssertionError):
        assert_answers(index, got, queries, k=15, n_probes=6)


@pytest.mark.parametrize("metric", SCALED_METRICS)
def test_no_item_left_scores_more_than_the_bound(metric: str) -> None:
    index = random_index(metric, n_items=2000, n_repeated=0)
    searcher = open_searcher(index, "faiss")
    queries = random_queries(index, 20)
    queries = normalize(queries) if metric == "cosine" else queries
    batch = searcher._open_batch(queries, 8, Filter(np.arange(20), 2000, None, None, None))
    eligible = [
        dict(zip(*eligible[::-1], strict=True))
        for eligible in iterate(reference.search(index, queries, k=2000, n_probes=8))
    ]
    for expected in (0, 0.5, 5):
        batch.queries_rot[:, 16] = expected
        for width in (5, 50, 500):
            scores, rows = searcher._scan(batch, width)
            bound = searcher._scales.bound(batch, scores[:, -1])
            for i, scored in enumerate(eligible):
                left = np.setdiff1d(index.item_ids, index.item_ids[rows[i]])
                assert max(scored[item_id] for item_id in left) <= bound[i]


def iterate(found: Candidates) -> list[tuple[np.ndarray, np.ndarray]]:
    return [found[i] for i in range(len(found))]


def test_unsettled_queries_expect_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index("inner_product", n_items=20000, n_lists=4, filled_lists=4)
    scan_for(monkeypatch, 0)
    returned: list[int] = []
    scan = FaissSearcher._scan

    def record(self: Any, batch: Any, width: int) -> Any:
        returned.append(len(batch.n_scanned) * width)
        return scan(self, batch, width)

    monkeypatch.setattr(FaissSearcher, "_scan", record)
    queries = random_queries(index, 20)
    got = open_searcher(index, "faiss").search(queries, k=20, n_probes=4)
    assert_answers(index, got, queries, k=20, n_probes=4)
    with_what_they_found = sum(returned)
    returned.clear()
    monkeypatch.setattr(Scales, "aim_at", lambda *_: None)
    assert_same_bits(open_searcher(index, "faiss").search(queries, k=20, n_probes=4), got)
    assert with_what_they_found < sum(returned) / 3


@pytest.mark.parametrize("pq_bits", [4, 6, 8, 10])
@pytest.mark.parametrize("metric", SCALED_METRICS)
def test_parts_of_a_catalog_score_their_items_alike(metric: str, pq_bits: int) -> None:
    index = random_index(metric, pq_bits=pq_bits, pq_dim=3, n_items=900)
    queries = random_queries(index, 10)
    whole = open_searcher(index, "faiss").search(queries, k=900, n_probes=8)
    for n in (2, 5):
        part = index.part(slice(1, None, n))
        of_part = open_searcher(part, "faiss").search(queries, k=900, n_probes=8)
        for (scores, ids), (all_scores, all_ids) in zip(
            iterate(of_part), iterate(whole), strict=True
        ):
            held = np.isin(all_ids, ids)
            np.testing.assert_array_equal(all_ids[held], ids)
            np.testing.assert_array_equal(all_scores[held], scores)


@pytest.mark.parametrize("pq_len", [4, 16, 24])
def test_scores_do_not_depend_on_the_other_queries(pq_len: int) -> None:
    # From a width of 16 Faiss makes its tables by a matrix product.
    index = random_index("inner_product", pq_len=pq_len)
    queries, searcher = random_queries(index, 45), open_searcher(index, "faiss")
    together = searcher.search(queries, k=30)
    for i in (0, 7, 44):
        alone = searcher.search(queries[i : i + 1], k=30)
        np.testing.assert_array_equal(alone.scores, together[i][0])


def test_items_of_scale_zero() -> None:
    index = random_index("inner_product", n_repeated=0)
    scales = np.where(index.item_ids % 2, 0, index.scales).astype(np.uint8)
    index = Index.from_codes(
        index.params, index.quantization, replace(index.item_codes, scales=scales)
    )
    queries = random_queries(index, 10)
    for k in (5, 150, 400):
        got = open_searcher(index, "faiss").search(queries, k=k, n_probes=8)
        assert_answers(index, got, queries, k=k, n_probes=8)
    nothing = replace(index.item_codes, scales=np.zeros(len(index), np.uint8))
    index = Index.from_codes(index.params, index.quantization, nothing)
    got = open_searcher(index, "faiss").search(queries, k=20, n_probes=8)
    assert_answers(index, got, queries, k=20, n_probes=8)
    np.testing.assert_array_equal(got[0][1], np.sort(index.item_ids)[:20])


def test_equal_items_whose_terms_cancel_come_by_id() -> None:
    # Their sum is rounded by more than it is itself: nothing is told by scores that are near.
    index = random_index("inner_product", n_lists=2, pq_dim=16)
    codebook = index.quantization.codebook.copy()
    codebook[0, 7] *= 1e6
    codebook[9, 7] = -codebook[0, 7]
    quantization = replace(index.quantization, codebook=codebook)
    alike = np.full((700, 16), 7, np.uint8), np.full(700, 150, np.uint8)
    # Where these score more, they come last and take the places of the first of the others.
    alike[1][690:] = 200
    items = ItemCodes(np.arange(700), np.zeros(700, np.int32), *alike)
    index = Index.from_codes(index.params, quantization, items)
    queries = random_queries(index, 50)
    queries[:, 36:40] = queries[:, :4]
    got = open_searcher(index, "faiss").search(queries, k=20, n_probes=2)
    for ids in got.item_ids.reshape(50, 20):
        first = np.sort(ids[ids < 690])
        np.testing.assert_array_equal(first, np.arange(len(first)))


def test_expected_scores_are_near_those_found() -> None:
    index = random_index("inner_product", n_items=50000, n_lists=8, filled_lists=8)
    searcher, queries = open_searcher(index, "faiss"), random_queries(index, 50)
    without = Index.from_codes(
        index.params,
        replace(index.quantization, scale_range=None),
        replace(index.item_codes, scales=None),
    ).without_list_lengths()
    for k in (10, 500):
        found = reference.search(without, queries, k=k, n_probes=8).scores.reshape(50, k)[:, -1]
        batch = searcher._open_batch(queries, 8, None)
        searcher._scales.aim(batch, k)
        ratios = batch.queries_rot[:, 16] / found
        assert 0.8 < np.quantile(ratios, 0.1) < np.quantile(ratios, 0.9) < 1.4


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
    index = random_index(n_repeated=0, scales=False)
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


@st.composite
def uneven_catalogs(draw: st.DrawFn) -> tuple[Index, np.ndarray]:
    """Catalogs with far items and short ones, clusters far apart, or all of it far from zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n_lists, powers = 12, st.integers(-2, 10)
    quantization = random_quantization(rng, n_lists=n_lists, rotation=draw(st.booleans()))
    centroids, codebook = quantization.coarse_centroids, quantization.codebook.copy()
    sizes = np.ones((n_lists, 1))
    n_far = draw(st.sampled_from([0, 1, 3, 12]))
    sizes[:n_far] = 10.0 ** draw(powers)
    centroids = centroids * sizes + draw(st.sampled_from([0, 10, 1e3]))
    if draw(st.booleans()):
        codebook[:, draw(st.integers(1, 255)) :] *= 10.0 ** draw(powers)
    trained = replace(
        quantization,
        coarse_centroids=centroids.astype(np.float32),
        codebook=codebook,
        encodes_residual=draw(st.booleans()),
    )
    of_items = rng.integers(0, n_lists, 300), rng.integers(0, 256, (300, 4), np.uint8)
    codes = ItemCodes(rng.permutation(300), *of_items)
    params = IVFPQParams(n_lists=n_lists, pq_dim=4, metric=draw(st.sampled_from(METRICS)))
    if params.metric != "l2" and draw(st.booleans()):
        reach = 10.0 ** draw(st.integers(1, 4))
        trained = replace(trained, scale_range=np.array([1 / reach, reach], np.float32))
        codes = replace(codes, scales=rng.integers(0, 256, 300, np.uint8))
    index = Index.from_codes(params, trained, codes)
    queries = rng.standard_normal((12, index.dim)).astype(np.float32)
    queries[:6] += index.decode(index.item_ids[::50])
    return index, queries


def true_scores(index: Index, query: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 scores of items, and what float32 may leave of each one's own digits."""
    rows = index.rows_of(ids)
    quantization, of_items = index.quantization, index.list_ids[rows]
    unscaled = replace(quantization, scale_range=None)
    x = coding.decode_rotated(unscaled, of_items, index.codes[rows]).astype(np.float64)
    q = quantization.rotate(query[None])[0].astype(np.float64)
    # A reconstruction is the sum of two vectors, and is rounded as the longer one is.
    codewords = coding.decode_rotated(
        replace(unscaled, encodes_residual=False), of_items, index.codes[rows]
    )
    terms = np.linalg.norm(codewords.astype(np.float64), axis=1)
    if quantization.encodes_residual:
        terms += np.linalg.norm(quantization.coarse_centroids.astype(np.float64), axis=1)[of_items]
    products = x @ q
    if index.scales is not None:
        scales = quantization.scale_table[index.scales[rows]].astype(np.float64)
        length = np.linalg.norm(q) if index.params.metric == "cosine" else 1
        rounding = 1e-6 * np.linalg.norm(q) / length * terms * scales
        return scales * products / length, rounding + 1e-30
    if index.params.metric == "inner_product":
        return products, 1e-6 * np.linalg.norm(q) * terms
    if index.params.metric == "l2":
        distances = ((q - x) ** 2).sum(axis=1)
        rounding = 4e-7 * (np.linalg.norm(q) + terms)
        of_codewords = typical_length(quantization.codebook.transpose(1, 0, 2).reshape(256, -1))
        return -distances, 1e-5 * (distances + of_codewords**2) + (
            2 * np.sqrt(distances) * rounding + rounding**2
        )
    norms = np.linalg.norm(x, axis=1)
    norms = np.where(norms > 0, norms, 1)
    return products / norms / np.linalg.norm(q), 1e-5 + 1e-6 * terms / norms


@pytest.mark.parametrize("n_probes", [3, 12])
@given(case=uneven_catalogs())
def test_no_item_decides_the_precision_of_others(
    n_probes: int, case: tuple[Index, np.ndarray]
) -> None:
    index, queries = case
    # What is nearly as near is chosen by the same differences; products are summed in any order.
    n_probes = n_probes if index.params.metric == "l2" else 12
    got = open_searcher(index, "faiss").search(queries, k=10, n_probes=n_probes)
    eligible = reference.search(index, queries, k=len(index), n_probes=n_probes)
    np.testing.assert_array_equal(got.counts, np.minimum(eligible.counts, 10))
    for i, query in enumerate(queries):
        scores, ids = got[i]
        left = np.setdiff1d(eligible[i][1], ids)
        assert len(left) == len(eligible[i][1]) - len(ids)
        true, tolerance = true_scores(index, query, ids)
        assert (np.abs(scores - true) <= tolerance).all()
        of_left, tolerance_left = true_scores(index, query, left)
        if len(left):
            assert (of_left - tolerance_left).max() <= (true + tolerance).min()


def chosen_lists(
    metric: str, centroids: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The five lists that Faiss chooses for each query, and the queries that it may be wrong of."""
    flat = faiss.IndexFlatL2(16) if metric == "l2" else faiss.IndexFlatIP(16)
    flat.add(centroids)
    scores, lists = flat.search(queries, 6)
    return lists[:, :5], ListTies(centroids, metric).find(queries, scores[:, 4], scores[:, 5])


def exact_list_scores(metric: str, centroids: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(n, n_lists) float64."""
    centroids, queries = centroids.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return -((queries[:, None] - centroids) ** 2).sum(axis=2)
    return queries @ centroids.T


@pytest.mark.parametrize("metric", METRICS)
@given(
    far=st.sampled_from([1, 1e3, 1e6, 1e10]),
    n_far=st.integers(0, 5),
    offset=st.sampled_from([0, 100, 1e4]),
    seed=st.integers(0, 2**16),
)
def test_choices_of_lists_that_rounding_makes_are_found(
    metric: str, far: float, n_far: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    centroids = (rng.standard_normal((40, 16)) + offset).astype(np.float32)
    centroids[:n_far] *= np.float32(far)
    centroids = normalize(centroids) if metric == "cosine" else centroids
    queries = rng.standard_normal((200, 16)) + offset
    if n_far:
        # The far centroid scores nearly 0, as others do: digits of its size are lost.
        direction = centroids[0] / np.linalg.norm(centroids[0].astype(np.float64))
        queries[:100] -= np.outer(queries[:100] @ direction, direction)
    queries = queries.astype(np.float32)
    lists, tied = chosen_lists(metric, centroids, queries)
    best = np.sort(-exact_list_scores(metric, centroids, queries), axis=1)
    chosen = np.take_along_axis(-exact_list_scores(metric, centroids, queries), lists, axis=1)
    wrong = np.flatnonzero(chosen.max(axis=1) > best[:, 4])
    assert np.isin(wrong, tied).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("far", [1, 1e3, 1e6, 1e10])
def test_few_far_centroids_make_no_ties(far: float, metric: str) -> None:
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((40, 16)).astype(np.float32)
    centroids[:3] *= np.float32(far)
    centroids = normalize(centroids) if metric == "cosine" else centroids
    queries = rng.standard_normal((1000, 16)).astype(np.float32)
    _, tied = chosen_lists(metric, centroids, queries)
    assert len(tied) < 5


@pytest.mark.parametrize(("centroids_apart", "has_table"), [(1, True), (8, True), (1e4, False)])
def test_distances_are_tabled_only_where_that_keeps_their_digits(
    centroids_apart: float, has_table: bool
) -> None:
    index = random_index("l2", spread=centroids_apart)
    searcher = open_searcher(index, "faiss")
    for opened in (searcher._ivfpq, to_faiss(index)):
        assert opened.use_precomputed_table == has_table


@pytest.mark.parametrize("metric", METRICS)
def test_one_far_item_changes_nothing_for_others(metric: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)
    vectors[777] = 1e10
    params = IVFPQParams(n_lists=16, pq_dim=4, metric="l2")
    trained = fit(params, vectors, rotation=False)
    index = Index.from_vectors(params, trained, np.arange(2000), vectors)
    index, queries = index.with_metric(metric), random_queries(index, 100)
    expected = reference.search(index, queries, k=10, n_probes=16)
    got = open_searcher(index, "faiss").search(queries, k=10, n_probes=16)
    assert agreement(got, expected, 10) > 0.999
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-5, atol=1e-6)
