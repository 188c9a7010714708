"""The space of a quantizer's cells, stretched along what the queries of the training look along."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from merlin_poeem.blocks import IVFPQQuantizer
from merlin_poeem.blocks.quantizer import coarse, losses, warm_start
from merlin_poeem.blocks.quantizer.stretch import KEEP
from merlin_poeem.quantization.stretch import stretch

DIM = 8


@pytest.fixture(autouse=True)
def _few_iterations(monkeypatch):
    monkeypatch.setattr(warm_start, "ITERATIONS", 2)


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def queries(n: int, seed: int = 1) -> np.ndarray:
    """They look along few directions."""
    turned = np.linalg.qr(vectors(DIM, seed=9))[0]
    return vectors(n, seed) * np.geomspace(2, 0.05, DIM, dtype=np.float32) @ turned


def make_quantizer(**options) -> IVFPQQuantizer:
    quantizer = IVFPQQuantizer(
        **{
            "n_lists": 4,
            "pq_dim": 2,
            "pq_bits": 4,
            "stretch": 0.25,
            "warmup": 0,
            "sample_size": 64,
            **options,
        }
    )
    quantizer.build((None, DIM))
    return quantizer


@pytest.mark.parametrize("amount", [0.25, 1.0])
def test_the_start_makes_the_space_that_the_definition_makes(amount, capfd):
    quantizer = make_quantizer(stretch=amount, rotation=False)
    batches = [queries(30, seed) for seed in range(3)]
    for batch in batches:
        quantizer.see_queries(batch)
    quantizer(vectors(64), training=True)
    # What came before counts a little less.
    seen = [batch * KEEP ** ((2 - i) / 2) for i, batch in enumerate(batches)]
    of_items, of_queries = stretch(np.concatenate(seen).astype(np.float32), amount)
    quantization = quantizer.quantization()
    np.testing.assert_allclose(quantization.rotation, of_items, atol=1e-4)
    np.testing.assert_allclose(quantization.query_rotation, of_queries, rtol=1e-4, atol=1e-4)
    assert "not stretched" not in capfd.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
def test_queries_whose_squares_are_not_finite_are_named(value):
    quantizer = make_quantizer()
    batch = queries(30)
    batch[3, 2] = value
    quantizer.see_queries(batch)
    with pytest.raises(tf.errors.InvalidArgumentError, match="stretch: expected query vectors"):
        quantizer(vectors(64), training=True)


def test_a_rotation_is_learned_inside_the_stretched_space():
    quantizer = make_quantizer()
    quantizer.see_queries(queries(90))
    quantizer(vectors(64), training=True)
    of_items, _ = stretch(queries(90), 0.25)
    rotation = quantizer.quantization().rotation
    np.testing.assert_allclose(rotation @ rotation.T, of_items @ of_items, atol=1e-4)
    assert not np.allclose(rotation, of_items, atol=0.1)


@pytest.mark.parametrize("rotation", [True, False])
def test_without_queries_nothing_is_stretched_and_a_line_says_so(rotation, capfd):
    quantizer = make_quantizer(name="mine", rotation=rotation)
    quantizer.see_queries(np.zeros((5, DIM), np.float32))
    quantizer(vectors(64), training=True)
    quantizer(vectors(64), training=True)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mine:")]
    assert told == [
        "mine: the space of the index is not stretched, as no query was seen before the start: "
        "QuantizedTwoTowerModel and its V2 show them, at the end of each step; a start in the "
        "first step is too early (warmup=1 puts it off); stretch=0 leaves out this line"
    ]
    quantization = quantizer.quantization()
    assert quantization.query_rotation is None
    assert (quantization.rotation is not None) == rotation
    plain = make_quantizer(stretch=0, rotation=rotation)
    for _ in range(2):
        plain(vectors(64), training=True)
    np.testing.assert_array_equal(quantization.codebook, plain.quantization().codebook)


@pytest.mark.parametrize("options", [{}, {"stretch": 0}], ids=["by default", "by name"])
def test_none_is_asked_for(options, capfd):
    quantizer = IVFPQQuantizer(4, 2, 4, warmup=0, sample_size=64, **options)
    quantizer.build((None, DIM))
    quantizer.see_queries(queries(90))
    quantizer(vectors(64), training=True)
    assert quantizer.quantization().query_rotation is None
    assert "not stretched" not in capfd.readouterr().err


def test_a_configuration_from_before_has_no_stretch():
    config = make_quantizer().get_config()
    assert config.pop("stretch") > 0
    assert IVFPQQuantizer.from_config(config).stretch == 0


def test_what_is_frozen_sees_nothing():
    quantizer = make_quantizer()
    with quantizer.frozen():
        quantizer.see_queries(queries(9))
    assert not quantizer.query_moments.numpy().any()


def test_agreement_is_of_lists_as_a_search_visits_them():
    quantizer = make_quantizer(metric="cosine", agreement=0.5)
    unit = queries(90) / np.linalg.norm(queries(90), axis=1, keepdims=True)
    quantizer.see_queries(unit)
    items = tf.math.l2_normalize(vectors(64), 1)
    quantizer(items, training=True)
    quantization = quantizer.quantization()
    centroids = quantization.coarse_centroids
    directions = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    lengths = quantizer.list_lengths.numpy()
    to_visit = directions * (lengths / lengths.mean())[:, None]
    sharpness = quantizer.list_sharpness
    lists = losses.soft_lists(quantization.rotate(items[:9].numpy()), centroids, sharpness)
    probes = losses.soft_probes(quantization.rotate_queries(unit[:9]), to_visit, sharpness)
    expected = float(losses.disagreement(lists, probes))
    assert float(quantizer.disagreement(unit[:9], items[:9])) == pytest.approx(expected, rel=1e-4)
    found = coarse.nearest_lists(quantization.rotate(items.numpy()), centroids).numpy()
    assert len(np.unique(found)) > 1
