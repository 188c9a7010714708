"""settle_index: the index over the whole catalog, and everything that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from merlin_poeem import Quantization, refit
from merlin_poeem.arrays import normalize
from merlin_poeem.blocks import (
    StaleIndexError,
    check_fresh,
    encode_items,
    export_index,
    find_quantizer,
    item_vectors,
    settle_index,
)
from merlin_poeem.quantization import coding
from tests.blocks import toy

ITEMS = toy.ITEMS


@pytest.fixture(params=[toy.v1, toy.v2], ids=["V1", "V2"])
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The trained toy, whose index is put back: other tests share it."""
    trained = toy.trained_model(request.param)
    quantizer = find_quantizer(trained)
    before = quantizer.quantization()
    yield trained
    quantizer.take(before)


def assert_same(got: Quantization, expected: Quantization) -> None:
    """But for rounding."""
    for name in ("coarse_centroids", "codebook", "rotation", "query_rotation"):
        values = getattr(got, name), getattr(expected, name)
        assert (values[0] is None) is (values[1] is None)
        if values[0] is not None:
            np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)


def distortion(model: Any, weights: np.ndarray | None = None) -> float:
    """In the space of the codes, which is stretched: the codewords are means there."""
    quantization = find_quantizer(model).quantization()
    _, vectors = item_vectors(model, ITEMS)
    vectors = quantization.rotate(normalize(vectors))  # the model scores by cosine
    codes = encode_items(model, ITEMS)
    decoded = coding.decode_rotated(quantization, codes.list_ids, codes.codes)
    return float(np.average(((vectors - decoded) ** 2).sum(axis=1), weights=weights))


def test_codes_fit_the_catalog_better(model: Any) -> None:
    before = distortion(model)
    settle_index(model, ITEMS, rounds=1)
    after = distortion(model)
    settle_index(model, ITEMS)
    assert distortion(model) < after < before


def test_frequencies_are_of_the_items(model: Any) -> None:
    quantization = find_quantizer(model).quantization()
    rows = np.random.default_rng(0).permutation(toy.N_ITEMS)
    item_ids, vectors = item_vectors(model, ITEMS.iloc[rows])
    frequencies = np.arange(toy.N_ITEMS) ** 2 + 1
    assert find_quantizer(model).agreement  # its lists stay
    weights = frequencies[item_ids]
    expected = refit(quantization, normalize(vectors), weights=weights, lists=False)
    settle_index(model, ITEMS.iloc[rows], frequencies=frequencies)
    assert_same(find_quantizer(model).quantization(), expected)


def test_vectors_are_as_long_as_the_model_scores_them() -> None:
    model = toy.v2(toy.make_quantizer(metric="inner_product", agreement=0.0))
    toy.train(model)
    quantization = find_quantizer(model).quantization()
    _, vectors = item_vectors(model, ITEMS)
    expected = refit(quantization, vectors)
    settle_index(model, ITEMS)
    assert_same(find_quantizer(model).quantization(), expected)


@pytest.mark.parametrize("stretch", [0.0, 0.25])
def test_a_rotation_that_is_not_learned_stays(stretch: float) -> None:
    model = toy.v2(toy.make_quantizer(rotation=False, stretch=stretch, agreement=0.0))
    toy.train(model)
    before = find_quantizer(model).quantization()
    settle_index(model, ITEMS)
    after = find_quantizer(model).quantization()
    assert (after.rotation is None) is (stretch == 0)
    np.testing.assert_array_equal(after.rotation, before.rotation)
    assert not np.array_equal(after.coarse_centroids, before.coarse_centroids)


def test_a_training_goes_on_from_what_has_settled() -> None:
    model = toy.v2(toy.make_quantizer())
    toy.train(model)
    settle_index(model, ITEMS)
    settled = find_quantizer(model).quantization()
    toy.train(model)
    after = find_quantizer(model).quantization()
    assert np.abs(after.codebook - settled.codebook).mean() < 0.5 * np.abs(settled.codebook).mean()


def test_an_index_from_before_is_stale(model: Any) -> None:
    index = export_index(model, ITEMS, n_probes=1)
    settle_index(model, ITEMS)
    with pytest.raises(StaleIndexError):
        check_fresh(index, model)
    check_fresh(export_index(model, ITEMS, n_probes=1), model)


def test_what_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="expected one for each item id from 0 up to 49"):
        settle_index(model, ITEMS, frequencies=np.ones(49))
    with pytest.raises(ValueError, match="expected one for each item id from 0 up to 49"):
        settle_index(model, ITEMS, frequencies=np.ones((50, 1)))
    with pytest.raises(ValueError, match="rounds: expected at least 1, got 0"):
        settle_index(model, ITEMS, rounds=0)
    with pytest.raises(ValueError, match="dataset: expected the columns"):
        settle_index(model, pd.DataFrame({"item": [1]}))
    with pytest.raises(RuntimeError, match="expected a started quantizer"):
        settle_index(toy.v1(toy.make_quantizer(warmup=10**6)), ITEMS)
