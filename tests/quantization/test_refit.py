"""refit: codewords at the means of what they stand for."""

from typing import Any

import numpy as np
import pytest

from merlin_poeem import IVFPQParams, Quantization, fit, refit
from merlin_poeem.quantization import coding
from tests.index_factories import random_quantization


def distortion(quantization: Quantization, vectors: np.ndarray, weights: Any = None) -> float:
    x_rot = quantization.rotate(vectors)
    decoded = coding.decode_rotated(quantization, *coding.encode(quantization, vectors))
    return float(np.average(((x_rot - decoded) ** 2).sum(axis=1), weights=weights))


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)


@pytest.mark.parametrize("encodes_residual", [True, False])
@pytest.mark.parametrize("rotation", [True, False])
def test_distortion_falls_and_lists_stay(
    vectors: np.ndarray, rotation: bool, encodes_residual: bool
) -> None:
    before = random_quantization(
        np.random.default_rng(1), pq_bits=4, rotation=rotation, encodes_residual=encodes_residual
    )
    once, often = refit(before, vectors, rounds=1), refit(before, vectors, rounds=9)
    errors = [distortion(each, vectors) for each in (before, once, often)]
    assert errors[0] > errors[1] > errors[2]
    for name in ("coarse_centroids", "rotation", "encodes_residual", "scale_range"):
        assert getattr(often, name) is getattr(before, name) or np.array_equal(
            getattr(often, name), getattr(before, name)
        )


def test_each_codeword_is_the_mean_of_what_it_stands_for() -> None:
    codebook = np.float32([[[0.0], [10.0], [100.0]], [[0.0], [1.0], [2.0]]])
    codebook = np.concatenate([codebook, np.float32([[[-50.0]], [[-50.0]]])], axis=1)
    quantization = Quantization(np.zeros((1, 2), np.float32), codebook)
    vectors = np.float32([[1, 0], [3, 0], [11, 2]])
    plain = refit(quantization, vectors, rounds=1).codebook
    assert plain[0, :, 0].tolist() == [2, 11, 100, -50]  # the last two stand for nothing
    weighted = refit(quantization, vectors, weights=[3, 1, 0.5], rounds=1).codebook
    assert weighted[0, :, 0].tolist() == [1.5, 11, 100, -50]
    assert weighted[1, :, 0].tolist() == [0, 1, 2, -50]


def test_weights_decide_what_is_near(vectors: np.ndarray) -> None:
    before = random_quantization(np.random.default_rng(1), pq_bits=4)
    weights = np.where(np.arange(2000) < 200, 100, 1)
    alike, weighted = refit(before, vectors), refit(before, vectors, weights=weights)
    assert distortion(weighted, vectors, weights) < distortion(alike, vectors, weights)
    assert distortion(weighted, vectors) > distortion(alike, vectors)


def test_what_faiss_has_fitted_is_near_the_end(vectors: np.ndarray) -> None:
    quantization = fit(IVFPQParams(n_lists=4, pq_dim=4, pq_bits=4), vectors, item_scales=False)
    before, after = (distortion(q, vectors) for q in (quantization, refit(quantization, vectors)))
    assert 0.99 * before < after <= before * (1 + 1e-6)


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
