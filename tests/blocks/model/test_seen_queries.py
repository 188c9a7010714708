"""What the models show their quantizers: the queries of the training, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem.blocks import export_index, item_vectors, query_vectors
from merlin_poeem.blocks.model.seen_queries import SeenQueries
from merlin_poeem.blocks.model.towers import find_quantizer
from merlin_poeem.blocks.quantizer import warm_start
from tests.blocks.toy import (
    ITEMS,
    SCHEMA,
    USERS,
    interactions,
    make_quantizer,
    train,
    v1,
    v2,
)

BUILDS = pytest.mark.parametrize("build", [v1, v2], ids=["V1", "V2"])


@pytest.fixture(autouse=True)
def _few_iterations(monkeypatch):
    monkeypatch.setattr(warm_start, "ITERATIONS", 2)


def after_towers(model):
    return (model.encoder if hasattr(model, "encoder") else model.retrieval_block).post


@BUILDS
def test_all_queries_of_the_training_are_seen_and_no_items(build):
    model = build(make_quantizer(warmup=1000, agreement=0))
    assert isinstance(after_towers(model), SeenQueries)
    # The towers stay as they are.
    model.compile(tf.keras.optimizers.SGD(0.0), run_eagerly=True, metrics=[])
    data = Dataset(interactions(), schema=SCHEMA)
    model.fit(data, batch_size=128, verbose=0)
    quantizer = find_quantizer(model)
    moments = quantizer.query_moments.numpy()
    queries = query_vectors(model, USERS)[1][interactions()["user_id"]]
    items = item_vectors(model, ITEMS)[1][interactions()["item_id"]]
    # Of eight batches the first counts less by 0.7 percent.
    size = np.abs(moments).max()
    np.testing.assert_allclose(moments, queries.T @ queries, rtol=0, atol=0.01 * size)
    assert np.abs(moments - items.T @ items).max() > 0.1 * size
    model.evaluate(data, batch_size=128, verbose=0)
    np.testing.assert_array_equal(quantizer.query_moments.numpy(), moments)


@BUILDS
def test_a_trained_model_has_an_index_of_a_stretched_space(build, capfd):
    model = build(make_quantizer(metric="cosine", stretch=0.5))
    train(model)
    quantization = export_index(model, ITEMS).quantization
    assert quantization.query_rotation is not None
    widths = np.linalg.svd(quantization.rotation, compute_uv=False)
    assert widths[0] > 1.2 * widths[-1]
    assert "not stretched" not in capfd.readouterr().err


@pytest.mark.parametrize(("warmup", "is_too_early"), [(0, True), (1, False)])
def test_the_first_step_is_too_early_for_a_start(warmup, is_too_early, capfd):
    model = v1(make_quantizer(warmup=warmup))  # a batch fills the sample
    train(model, run_eagerly=True)
    quantization = find_quantizer(model).quantization()
    assert (quantization.query_rotation is None) == is_too_early
    assert ("no query was seen before the start" in capfd.readouterr().err) == is_too_early


@BUILDS
def test_without_stretch_nothing_is_attached(build):
    assert after_towers(build(make_quantizer(stretch=0, agreement=0))) is None
