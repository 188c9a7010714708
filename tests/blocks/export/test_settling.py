"""settle_codebook: codewords over the whole catalog, and everything that follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from merlin_poeem import refit
from merlin_poeem.arrays import normalize
from merlin_poeem.blocks import (
    StaleIndexError,
    check_fresh,
    encode_items,
    export_index,
    find_quantizer,
    item_vectors,
    settle_codebook,
)
from merlin_poeem.quantization import coding
from tests.blocks import toy

ITEMS = toy.ITEMS


@pytest.fixture(params=[toy.v1, toy.v2], ids=["V1", "V2"])
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The trained toy, whose codebook is put back: other tests share it."""
    trained = toy.trained_model(request.param)
    codebook = find_quantizer(trained).codebook
    before = codebook.numpy()
    yield trained
    codebook.assign(before)


def distortion(model: Any, weights: np.ndarray | None = None) -> float:
    """In the space of the codes, which is stretched: the codewords are means there."""
    quantization = find_quantizer(model).quantization()
    _, vectors = item_vectors(model, ITEMS)
    vectors = quantization.rotate(normalize(vectors))  # the model scores by cosine
    codes = encode_items(model, ITEMS)
    decoded = coding.decode_rotated(quantization, codes.list_ids, codes.codes)
    return float(np.average(((vectors - decoded) ** 2).sum(axis=1), weights=weights))


def test_codes_fit_the_catalog_better(model: Any) -> None:
    before, lists = distortion(model), encode_items(model, ITEMS).list_ids
    settle_codebook(model, ITEMS, rounds=1)
    after = distortion(model)
    settle_codebook(model, ITEMS)
    assert distortion(model) < after < before
    np.testing.assert_array_equal(encode_items(model, ITEMS).list_ids, lists)


def test_frequencies_are_of_the_items(model: Any) -> None:
    quantization = find_quantizer(model).quantization()
    rows = np.random.default_rng(0).permutation(toy.N_ITEMS)
    item_ids, vectors = item_vectors(model, ITEMS.iloc[rows])
    frequencies = np.arange(toy.N_ITEMS) ** 2 + 1
    expected = refit(quantization, normalize(vectors), weights=frequencies[item_ids])
    settle_codebook(model, ITEMS.iloc[rows], frequencies=frequencies)
    got = find_quantizer(model).quantization()
    np.testing.assert_allclose(got.codebook, expected.codebook, rtol=1e-5, atol=1e-6)


def test_vectors_are_as_long_as_the_model_scores_them() -> None:
    model = toy.v2(toy.make_quantizer(metric="inner_product"))
    toy.train(model)
    quantization = find_quantizer(model).quantization()
    _, vectors = item_vectors(model, ITEMS)
    expected = refit(quantization, vectors)
    settle_codebook(model, ITEMS)
    got = find_quantizer(model).quantization()
    np.testing.assert_allclose(got.codebook, expected.codebook, rtol=1e-5, atol=1e-6)


def test_an_index_from_before_is_stale(model: Any) -> None:
    index = export_index(model, ITEMS, n_probes=1)
    settle_codebook(model, ITEMS)
    with pytest.raises(StaleIndexError):
        check_fresh(index, model)
    check_fresh(export_index(model, ITEMS, n_probes=1), model)


def test_what_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="expected one for each item id from 0 up to 49"):
        settle_codebook(model, ITEMS, frequencies=np.ones(49))
    with pytest.raises(ValueError, match="expected one for each item id from 0 up to 49"):
        settle_codebook(model, ITEMS, frequencies=np.ones((50, 1)))
    with pytest.raises(ValueError, match="rounds: expected at least 1, got 0"):
        settle_codebook(model, ITEMS, rounds=0)
    with pytest.raises(ValueError, match="dataset: expected the columns"):
        settle_codebook(model, pd.DataFrame({"item": [1]}))
    with pytest.raises(RuntimeError, match="expected a started quantizer"):
        settle_codebook(toy.v1(toy.make_quantizer(warmup=10**6)), ITEMS)
