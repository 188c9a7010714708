"""LengthByPopularity: lengths as asked for, directions as the tower's, and a saved one the same."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from merlin_poeem.blocks import LengthByPopularity


class Places(tf.keras.layers.Layer):
    """A tower of one named feature."""

    def call(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        assert list(inputs) == ["place"]
        return inputs["place"]


def features(popularity: list[float]) -> dict[str, np.ndarray]:
    place = np.random.default_rng(0).normal(size=(len(popularity), 4)).astype(np.float32)
    return {"place": place, "visits": np.float32(popularity)}


def test_directions_are_the_towers_and_lengths_are_given():
    inputs = features([-2.0, 0.0, 3.0])
    vectors = LengthByPopularity(Places(), "visits", rate=0.25)(inputs).numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths, [0.5, 1.0, 1.75], rtol=1e-6)
    place = inputs["place"]
    unit = place / np.linalg.norm(place, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors / lengths[:, None], unit, rtol=1e-5)


def test_a_tower_of_half_precision_gives_float32():
    inputs = features([-2.0, 0.0, 3.0])
    expected = LengthByPopularity(Places(), "visits", rate=0.25)(inputs).numpy()
    policy = tf.keras.mixed_precision.Policy("mixed_float16")
    block = LengthByPopularity(Places(dtype=policy), "visits", rate=0.25, dtype=policy)
    vectors = block(inputs)
    assert vectors.dtype == tf.float32
    np.testing.assert_allclose(vectors, expected, atol=5e-3)


@pytest.mark.parametrize("bad", [-4.0, np.nan, np.inf])
def test_a_length_that_is_none_is_refused(bad):
    block = LengthByPopularity(Places(), "visits", rate=0.25)
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected finite visits above -4"):
        block(features([1.0, bad]))


def test_bad_options_and_a_missing_column_are_refused():
    for rate in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="rate: expected 0 <= rate < 1"):
            LengthByPopularity(Places(), rate=rate)
    with pytest.raises(ValueError, match="expected the continuous item feature 'item_popularity'"):
        LengthByPopularity(Places())(features([1.0]))


def test_a_saved_block_keeps_its_rate_and_its_tower(tmp_path):
    inputs = {
        "place": tf.keras.Input([4], name="place"),
        "visits": tf.keras.Input([1], name="visits"),
    }
    tower = tf.keras.Sequential([Places(), tf.keras.layers.Dense(3)])
    model = tf.keras.Model(inputs, LengthByPopularity(tower, "visits", rate=0.25)(inputs))
    rows = features([-1.0, 2.0])
    expected = model(rows).numpy()
    model.save(tmp_path / "model")
    with tf.keras.utils.custom_object_scope({"Places": Places}):
        loaded = tf.keras.models.load_model(tmp_path / "model")
    np.testing.assert_allclose(loaded(rows).numpy(), expected, rtol=1e-6)
    layer = next(layer for layer in loaded.layers if isinstance(layer, LengthByPopularity))
    assert (layer.column, layer.rate) == ("visits", 0.25)
