"""The loss that brings items into the lists that their queries visit."""

import numpy as np
import pytest
import tensorflow as tf

from merlin_poeem.blocks import IVFPQQuantizer, find_quantizer
from merlin_poeem.blocks.quantizer import coarse, losses
from tests.blocks.toy import make_quantizer, train, v1, v2

CENTROIDS = np.float32([[1, 0], [-1, 0], [0, 1]])


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def test_disagreement_is_what_it_says():
    rng = np.random.default_rng(0)
    queries, items = rng.standard_normal((2, 5, 2)).astype(np.float32)
    distances = ((items[:, None] - CENTROIDS) ** 2).sum(axis=2)
    lists = log_softmax(-3.0 * distances / (items**2).sum(axis=1).mean())
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    probes = log_softmax(3.0 * unit @ CENTROIDS.T)
    expected = -np.log(np.exp(lists + probes).sum(axis=1)).mean()
    got_lists = losses.soft_lists(items, CENTROIDS, 3.0)
    got_probes = losses.soft_probes(queries, CENTROIDS, 3.0)
    np.testing.assert_allclose(got_lists, lists, atol=1e-5)
    np.testing.assert_allclose(got_probes, probes, atol=1e-5)
    assert float(losses.disagreement(got_lists, got_probes)) == pytest.approx(expected, rel=1e-5)


def test_the_scale_of_the_space_makes_no_difference():
    items = np.random.default_rng(1).standard_normal((6, 2)).astype(np.float32)
    np.testing.assert_allclose(
        losses.soft_lists(items, CENTROIDS, 5.0),
        losses.soft_lists(8 * items, 8 * CENTROIDS, 5.0),
        atol=1e-5,
    )


def test_gradient_brings_an_item_into_the_list_its_query_visits():
    item = tf.Variable(np.float32([[0.9, 0.1]]))  # in list 0
    probes = losses.soft_probes(np.float32([[0.1, 0.9]]), CENTROIDS, 10.0)  # visits list 2
    for _ in range(100):
        with tf.GradientTape() as tape:
            loss = losses.disagreement(losses.soft_lists(item, CENTROIDS, 2.0), probes)
        item.assign_sub(0.1 * tape.gradient(loss, item))
    assert int(coarse.nearest_lists(item, CENTROIDS)[0]) == 2


def test_models_learn_with_it_from_the_start_on():
    model = v2(make_quantizer(balance=0, commitment=0))
    losses = train(model, epochs=20).history["regularization_loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_weight_zero_attaches_nothing():
    assert IVFPQQuantizer(4, 2).agreement == 0
    model = v1(make_quantizer(agreement=0, stretch=0))
    assert model.retrieval_block.post is None
    assert find_quantizer(model).agreement == 0
    with pytest.raises(ValueError, match="agreement: expected at least 0, got -1"):
        make_quantizer(agreement=-1)
