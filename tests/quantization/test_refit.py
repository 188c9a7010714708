"""refit: centroids and codewords at the means of what they stand for, the rotation between them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from merlin_poeem import IVFPQParams, Quantization, fit, refit
from merlin_poeem.quantization import coding
from tests.index_factories import random_quantization


def distortion(quantization: Quantization, vectors: np.ndarray, weights: Any = None) -> float:
    quantization = replace(quantization, scale_range=None)
    x_rot = quantization.rotate(vectors)
    decoded = coding.decode_rotated(quantization, *coding.encode(quantization, vectors))
    return float(np.average(((x_rot - decoded) ** 2).sum(axis=1), weights=weights))


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)


@pytest.mark.parametrize("encodes_residual", [True, False])
@pytest.mark.parametrize("rotation", [True, False])
def test_distortion_falls(vectors: np.ndarray, rotation: bool, encodes_residual: bool) -> None:
    before = random_quantization(
        np.random.default_rng(1),
        pq_bits=4,
        rotation=rotation,
        encodes_residual=encodes_residual,
        scales=True,
    )
    once, often = refit(before, vectors, rounds=1), refit(before, vectors, rounds=9)
    errors = [distortion(each, vectors) for each in (before, once, often)]
    assert errors[0] > errors[1] > errors[2]
    assert often.encodes_residual is before.encodes_residual
    assert (often.rotation is None) is (before.rotation is None)
    np.testing.assert_array_equal(often.scale_range, before.scale_range)


def test_what_is_a_mean_is_the_mean_of_what_it_stands_for() -> None:
    codebook = np.float32([[[0.0], [10.0], [100.0]], [[0.0], [1.0], [2.0]]])
    codebook = np.concatenate([codebook, np.float32([[[-50.0]], [[-50.0]]])], axis=1)
    centroids = np.float32([[0, 0], [9, 0], [70, 70]])
    quantization = Quantization(centroids, codebook, encodes_residual=False)
    vectors = np.float32([[1, 0], [3, 0], [11, 2]])
    plain = refit(quantization, vectors, rounds=1)
    assert plain.codebook[0, :, 0].tolist() == [2, 11, 100, -50]  # the last two stand for nothing
    assert plain.coarse_centroids.tolist() == [[2, 0], [11, 2], [70, 70]]
    weighted = refit(quantization, vectors, weights=[3, 1, 0.5], rounds=1)
    assert weighted.codebook[0, :, 0].tolist() == [1.5, 11, 100, -50]
    assert weighted.codebook[1, :, 0].tolist() == [0, 1, 2, -50]
    assert weighted.coarse_centroids.tolist() == [[1.5, 0], [11, 2], [70, 70]]


def test_lists_are_of_what_the_codewords_leave_and_the_other_way_round() -> None:
    quantization = Quantization(np.float32([[0], [100]]), np.float32([[[0.0], [5.0]]]))
    moved = refit(quantization, np.float32([[0], [2], [4], [6], [8]]), rounds=1)
    # The list alone moves to 4, from where 5 stands for 8 and 0 for the others; then to the mean
    # of 0, 2, 4, 6 and 8 - 5, and the codewords to those of -3, -1, 1, 3 and of 5.
    assert moved.coarse_centroids.tolist() == [[3], [100]]
    assert moved.codebook[0, :, 0].tolist() == [0, 5]


def test_lists_stay_where_it_is_said(vectors: np.ndarray) -> None:
    before = random_quantization(np.random.default_rng(1), pq_bits=4, rotation=True)
    after = refit(before, vectors, lists=False)
    raw = [each.rotate_back(each.coarse_centroids) for each in (before, after)]
    np.testing.assert_allclose(*raw, atol=1e-5)
    assert distortion(refit(before, vectors), vectors) < distortion(after, vectors)
    assert distortion(after, vectors) < distortion(before, vectors)


@pytest.mark.parametrize("stretched", [False, True])
def test_the_rotation_turns_to_where_the_codes_are_right(stretched: bool) -> None:
    rng = np.random.default_rng(2)
    true = random_quantization(rng, pq_bits=4, rotation=True, spread=8)
    skew = np.diag(rng.uniform(0.8, 1.25, 16)).astype(np.float32) if stretched else np.eye(16)
    codes = rng.integers(0, 16, (4000, true.pq_dim))
    list_ids = rng.integers(0, true.n_lists, 4000)
    decoded = true.codebook[np.arange(true.pq_dim), codes].reshape(-1, 16)
    vectors = (true.coarse_centroids[list_ids] + decoded) @ np.linalg.inv(skew @ true.rotation)
    turn = np.linalg.qr(np.eye(16) + 0.01 * rng.standard_normal((16, 16)))[0]
    turn *= np.sign(np.diag(turn))
    before = Quantization(
        true.coarse_centroids @ turn.astype(np.float32),
        true.codebook,
        (skew @ true.rotation @ turn).astype(np.float32),
        query_rotation=(np.linalg.inv(skew).T @ true.rotation @ turn).astype(np.float32)
        if stretched
        else None,
    )
    vectors = vectors.astype(np.float32)
    stays = refit(before, vectors, rotation=False, rounds=4)
    np.testing.assert_array_equal(stays.rotation, before.rotation)
    turned = refit(before, vectors, rounds=4)
    assert distortion(turned, vectors) < 0.3 * distortion(stays, vectors)
    if stretched:
        product = turned.rotation.T @ turned.query_rotation
        np.testing.assert_allclose(product, np.eye(16), atol=1e-5)


def test_weights_decide_what_is_near(vectors: np.ndarray) -> None:
    before = random_quantization(np.random.default_rng(1), pq_bits=4)
    weights = np.where(np.arange(2000) < 200, 100, 1)
    alike, weighted = refit(before, vectors), refit(before, vectors, weights=weights)
    assert distortion(weighted, vectors, weights) < distortion(alike, vectors, weights)
    assert distortion(weighted, vectors) > distortion(alike, vectors)


@pytest.mark.parametrize("rotation", [True, "stretched"])
def test_what_does_not_count_changes_nothing(vectors: np.ndarray, rotation: Any) -> None:
    before = random_quantization(np.random.default_rng(1), pq_bits=4, rotation=rotation)
    others = 3 * np.random.default_rng(3).standard_normal((500, 16)).astype(np.float32) + 1
    alone = refit(before, vectors, rounds=2)
    beside = refit(
        before,
        np.concatenate([others, vectors]),
        weights=np.repeat([0, 1], [500, 2000]),
        rounds=2,
    )
    for name in ("coarse_centroids", "codebook", "rotation", "query_rotation"):
        values = getattr(alone, name), getattr(beside, name)
        if rotation == "stretched" or name != "query_rotation":
            np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-310, 1e307])
def test_weights_in_any_unit(vectors: np.ndarray, unit: float) -> None:
    before = random_quantization(np.random.default_rng(1), pq_bits=4, rotation=True)
    weights = np.random.default_rng(4).integers(1, 9, 2000).astype(np.float64)
    plain = refit(before, vectors, weights=weights, rounds=2)
    scaled = refit(before, vectors, weights=unit * weights, rounds=2)
    np.testing.assert_allclose(scaled.codebook, plain.codebook, atol=1e-4)


@pytest.mark.parametrize("size", [2.0**-40, 2.0**46])
def test_vectors_in_any_unit(vectors: np.ndarray, size: float) -> None:
    before = random_quantization(np.random.default_rng(1), pq_bits=4, rotation=True)
    larger = replace(
        before,
        coarse_centroids=before.coarse_centroids * np.float32(size),
        codebook=before.codebook * np.float32(size),
    )
    plain = refit(before, vectors, rounds=2)
    scaled = refit(larger, vectors * np.float32(size), rounds=2)
    np.testing.assert_allclose(scaled.codebook / size, plain.codebook, atol=1e-4)
    np.testing.assert_allclose(scaled.rotation, plain.rotation, atol=1e-4)


def test_what_faiss_has_fitted_is_near_the_end(vectors: np.ndarray) -> None:
    quantization = fit(IVFPQParams(n_lists=4, pq_dim=4, pq_bits=4), vectors, item_scales=False)
    before, after = (distortion(q, vectors) for q in (quantization, refit(quantization, vectors)))
    assert 0.9 * before < after < before


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rounds": 0}, ValueError, "rounds: expected at least 1, got 0"),
        ({"weights": [1, 2]}, ValueError, r"weights: expected shape \(2000,\), one a vector"),
        ({"weights": np.zeros(2000)}, ValueError, "weights: expected finite numbers of at least 0"),
        ({"weights": -np.ones(2000)}, ValueError, "weights: expected finite numbers of at least 0"),
        ({"weights": np.full(2000, np.nan)}, ValueError, "weights: expected finite numbers"),
        ({"vectors": np.zeros((0, 16), np.float32)}, ValueError, "vectors: expected at least one"),
        ({"vectors": np.zeros((3, 5), np.float32)}, ValueError, "vectors: expected shape"),
    ],
)
def test_refused(vectors: np.ndarray, change: dict[str, Any], error: type, message: str) -> None:
    before = random_quantization(np.random.default_rng(1), pq_bits=4)
    with pytest.raises(error, match=message):
        refit(before, **{"vectors": vectors, **change})
