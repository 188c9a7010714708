"""Training a quantization on fixed vectors."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.quantization.stretch import stretch
from merlin_poeem.search import reference

faiss = pytest.importorskip("faiss")

DIM = 16
PARAMS = IVFPQParams(n_lists=8, pq_dim=4, pq_bits=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small problems slow on a busy machine."""
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(n_threads)


def make_vectors(n: int = 1000, seed: int = 0) -> np.ndarray:
    """Correlated columns, so that a rotation has something to do."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(3, 0.1, DIM)
    turned = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    return (rng.normal(size=(n, DIM)) * spread @ turned).astype(np.float32)


def distortion(quantization: Quantization, vectors: np.ndarray) -> float:
    list_ids, codes = coding.encode(quantization, vectors)
    scales = None
    if quantization.scale_range is not None:
        scales = coding.scales_of(quantization, vectors, list_ids, codes)
    decoded = coding.decode(quantization, list_ids, codes, scales)
    return float(((vectors - decoded) ** 2).sum(axis=1).mean())


def random_quantization(vectors: np.ndarray) -> Quantization:
    """Vectors and residuals drawn at random in the place of trained ones."""
    rng = np.random.default_rng(1)
    centroids = vectors[rng.choice(len(vectors), 8, replace=False)]
    nearest = ((vectors[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    residuals = (vectors - centroids[nearest]).reshape(-1, 4, 4)
    codebook = residuals[rng.choice(len(vectors), 16, replace=False)].transpose(1, 0, 2)
    return Quantization(centroids, codebook)


def test_distortion_falls() -> None:
    vectors = make_vectors()
    trained = distortion(fit(PARAMS, vectors, rotation=False), vectors)
    assert trained < 0.7 * distortion(random_quantization(vectors), vectors)


def test_more_bits_fall_further() -> None:
    vectors = make_vectors()
    coarser, finer = PARAMS, IVFPQParams(n_lists=8, pq_dim=4, pq_bits=8)
    of_coarser, of_finer = (
        distortion(fit(params, vectors, rotation=False), vectors) for params in (coarser, finer)
    )
    assert of_finer < 0.5 * of_coarser


def test_rotation_is_orthogonal_and_helps() -> None:
    vectors = make_vectors()
    rotated = fit(PARAMS, vectors)
    assert rotated.rotation is not None
    np.testing.assert_allclose(rotated.rotation @ rotated.rotation.T, np.eye(DIM), atol=1e-4)
    plain = fit(PARAMS, vectors, rotation=False)
    assert plain.rotation is None
    assert distortion(rotated, vectors) <= distortion(plain, vectors)


def test_the_same_seed_gives_the_same() -> None:
    vectors = make_vectors(5000)  # more than are used
    first, second, other = (fit(PARAMS, vectors, seed=seed) for seed in (3, 3, 4))
    for name in ("coarse_centroids", "codebook", "rotation"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.coarse_centroids, other.coarse_centroids)


@pytest.mark.parametrize("rotation", [True, False])
@pytest.mark.parametrize("n", [8, 20, 200])
def test_fewer_vectors_than_codewords(n: int, rotation: bool) -> None:
    params = IVFPQParams(n_lists=8, pq_dim=4, pq_bits=8)
    vectors = make_vectors(n)
    quantization = fit(params, vectors, rotation=rotation)
    assert quantization.codebook.shape == (4, 256, 4)
    # A codeword for every vector: all that is left is rounding.
    assert distortion(quantization, vectors) < 1e-3 * (vectors**2).sum(axis=1).mean()


def test_equal_vectors() -> None:
    vectors = np.ones((50, DIM), np.float32)
    assert distortion(fit(PARAMS, vectors), vectors) < 1e-6


def test_cosine_trains_on_normalised_vectors() -> None:
    params = IVFPQParams(n_lists=8, pq_dim=4, pq_bits=4, metric="cosine")
    vectors = make_vectors()
    lengths = np.float32(2) ** np.random.default_rng(2).integers(-3, 4, (len(vectors), 1))
    first, second = fit(params, vectors), fit(params, vectors * lengths.astype(np.float32))
    np.testing.assert_allclose(first.coarse_centroids, second.coarse_centroids, atol=1e-3)
    assert np.linalg.norm(first.coarse_centroids, axis=1).max() <= 1.001


def narrow_queries(n: int = 400) -> np.ndarray:
    """They look along four directions of sixteen."""
    rng = np.random.default_rng(7)
    spread = np.repeat([1, 0.1], [4, DIM - 4])
    turned = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    return (rng.normal(size=(n, DIM)) * spread @ turned).astype(np.float32)


@pytest.mark.parametrize("rotation", [True, False])
@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_what_queries_look_along_counts_more(metric: str, rotation: bool) -> None:
    params = IVFPQParams(n_lists=16, pq_dim=4, pq_bits=4, metric=metric)
    items = np.random.default_rng(8).standard_normal((2000, DIM)).astype(np.float32)
    if metric == "cosine":
        items /= np.linalg.norm(items, axis=1, keepdims=True)
    queries, held_out = np.split(narrow_queries(), 2)
    exact = held_out @ items.T
    best = np.argsort(-exact, axis=1)[:, :10]
    errors, recalls = [], []
    for given in (None, queries):
        quantization = fit(params, items, queries=given, rotation=rotation)
        index = Index.from_vectors(params, quantization, np.arange(2000), items)
        scores = held_out @ index.decode(np.arange(2000)).T
        errors.append(((scores - exact) ** 2).mean())
        found = reference.search(index, held_out, k=2000, n_probes=4)
        recalls.append(np.mean([np.isin(best[i], found[i][1]).mean() for i in range(200)]))
    assert errors[1] < 0.8 * errors[0]
    assert recalls[1] > recalls[0] + 0.1


@pytest.mark.parametrize("amount", [{}, {"stretch": 0.75}], ids=["by default", "by name"])
def test_queries_leave_a_quantization_in_a_stretched_space(amount: dict[str, float]) -> None:
    quantization = fit(PARAMS, make_vectors(), queries=narrow_queries(), rotation=False, **amount)
    of_items, of_queries = stretch(narrow_queries(), amount.get("stretch", 0.25))
    np.testing.assert_array_equal(quantization.rotation, of_items)
    np.testing.assert_array_equal(quantization.query_rotation, of_queries)
    rotated = fit(PARAMS, make_vectors(), queries=narrow_queries(), **amount)
    assert rotated.rotation is not None
    np.testing.assert_allclose(
        rotated.rotation @ rotated.rotation.T, of_items @ of_items, atol=1e-4
    )
    assert not np.allclose(rotated.rotation, of_items, atol=0.1)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
@pytest.mark.parametrize(
    "given", [{"stretch": 1.0}, {"queries": narrow_queries(), "stretch": 0}], ids=["none", "zero"]
)
def test_neither_without_queries_nor_by_zero_is_anything_stretched(
    metric: str, given: dict[str, Any]
) -> None:
    params = IVFPQParams(n_lists=8, pq_dim=4, pq_bits=4, metric=metric)
    plain, got = (fit(params, make_vectors(), item_scales=False, **each) for each in ({}, given))
    assert got.query_rotation is None
    for name in ("coarse_centroids", "codebook", "rotation"):
        np.testing.assert_array_equal(getattr(got, name), getattr(plain, name))


@pytest.mark.parametrize("queries", [None, narrow_queries()], ids=["none", "some"])
@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_stretch_refused(amount: float, queries: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match=f"^stretch: expected 0 <= stretch <= 1, got {amount}$"):
        fit(PARAMS, make_vectors(), queries=queries, stretch=amount)


def test_lengths_of_queries_do_not_count_where_the_metric_is_cosine() -> None:
    params = IVFPQParams(n_lists=8, pq_dim=4, pq_bits=4, metric="cosine")
    queries = narrow_queries()
    longer = queries * np.geomspace(0.1, 10, len(queries), dtype=np.float32)[:, None]
    first, second = (fit(params, make_vectors(), queries=each) for each in (queries, longer))
    np.testing.assert_allclose(first.query_rotation, second.query_rotation, atol=1e-3)


@pytest.mark.parametrize(
    ("metric", "item_scales", "queries", "error", "message"),
    [
        (
            "l2",
            False,
            narrow_queries(),
            ValueError,
            "queries: expected None where the metric is l2",
        ),
        (
            "cosine",
            False,
            narrow_queries(),
            ValueError,
            "item_scales: expected True beside queries",
        ),
        (
            "cosine",
            True,
            narrow_queries()[:, 1:],
            ValueError,
            r"queries: .*\(n, 16\), got \(400, 15",
        ),
        ("cosine", True, narrow_queries().astype("f8"), TypeError, "queries: expected float32"),
        ("cosine", True, narrow_queries()[:0], ValueError, "queries: expected at least one"),
        ("inner_product", True, narrow_queries() * 1e20, ValueError, "queries: .*at most 1e"),
    ],
)
def test_queries_refused(
    metric: str, item_scales: bool, queries: np.ndarray, error: type[Exception], message: str
) -> None:
    params = IVFPQParams(n_lists=8, pq_dim=4, pq_bits=4, metric=metric)
    with pytest.raises(error, match=message):
        fit(params, make_vectors(), queries=queries, item_scales=item_scales)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_fitted_index_finds_its_items(metric: str) -> None:
    params = IVFPQParams(n_lists=8, pq_dim=8, pq_bits=8, metric=metric)
    vectors = make_vectors(300)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quantization = fit(params, vectors, rotation=False)
    index = Index.from_vectors(params, quantization, np.arange(300), vectors)
    found = reference.search(index, vectors, k=1, n_probes=8)
    assert (found.item_ids == np.arange(300)).mean() > 0.95


@pytest.mark.parametrize(
    ("change", "vectors", "error", "message"),
    [
        ({}, make_vectors().astype(np.float64), TypeError, "vectors: expected float32"),
        ({}, make_vectors() * np.float32(np.nan), ValueError, "vectors: expected finite"),
        ({}, make_vectors()[0], ValueError, "vectors: expected two dimensions"),
        ({}, make_vectors(7), ValueError, r"n_lists = 8, got 7: .*suggest_params\(7, 16\)"),
        ({"pq_dim": 5}, make_vectors(), ValueError, "pq_dim: expected a divisor of dim = 16"),
        ({"pq_bits": 6}, make_vectors(), ValueError, r"pq_bits: expected one of \(4, 8\), got 6"),
    ],
)
def test_refused(
    change: dict[str, Any], vectors: np.ndarray, error: type[Exception], message: str
) -> None:
    params = IVFPQParams(**{"n_lists": 8, "pq_dim": 4, "pq_bits": 4, **change})
    with pytest.raises(error, match=message):
        fit(params, vectors)


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"fit .* needs faiss, .* pip install faiss-cpu"):
        fit(PARAMS, make_vectors())
