"""A stale index is found: fingerprints of towers, and where an index and a model meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem import Index, load_index, save_index
from merlin_poeem.blocks import (
    IVFPQTopK,
    StaleIndexError,
    batch_predict,
    check_fresh,
    export_index,
    find_quantizer,
    query_vectors,
    save_encoder,
    top_k_encoder,
    tower_fingerprints,
)
from merlin_poeem.blocks.model import freshness
from merlin_poeem.blocks.model.freshness import (
    INFO_KEY,
    index_fingerprints,
    tower_fingerprint,
)
from merlin_poeem.search import reference
from tests.blocks import toy
from tests.index_factories import random_index

K = 5
USERS = toy.USERS
FEATURES = {"user_id": tf.constant(USERS.to_numpy())}


# What saves takes long. Of the other kind of model, the query tower is an mm.Encoder, which
# test_topk saves and loads.
only_v1 = pytest.mark.parametrize("trained", ["v1"], indirect=True)


@pytest.fixture(scope="module", params=["v1", "v2"])
def trained(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A model whose weights the tests leave as they are, but for the last one."""
    model = toy.trained_model(getattr(toy, request.param))
    weights = model.get_weights()
    yield model
    model.set_weights(weights)


@pytest.fixture(scope="module")
def index(trained: Any) -> Index:
    return export_index(trained, toy.ITEMS, n_probes=2, info={"seed": 3})


@pytest.fixture(scope="module")
def encoder(trained: Any, index: Index) -> mm.TopKEncoder:
    encoder = top_k_encoder(trained, index, k=K)
    encoder(FEATURES)
    return encoder


@pytest.fixture(scope="module")
def truth(trained: Any, index: Index) -> Any:
    return reference.search(index, query_vectors(trained, USERS)[1], k=K)


def test_the_index_of_a_model_is_fresh(trained: Any, index: Index) -> None:
    assert index.info == {"seed": 3, INFO_KEY: tower_fingerprints(trained)}
    assert len(set(index.info[INFO_KEY].values())) == 2
    check_fresh(index, trained)
    with find_quantizer(trained).float_mode():
        check_fresh(index, trained)


def test_a_change_of_the_quantizer_concerns_the_item_tower(trained: Any, index: Index) -> None:
    quantizer = find_quantizer(trained)
    before = quantizer.codebook.numpy()
    quantizer.codebook.assign_add(tf.fill(before.shape, 1e-3))
    try:
        now = tower_fingerprints(trained)
        check_fresh(index, {"query_tower": now["query_tower"]})
        ids, _ = query_vectors(trained, USERS, index=index)
        assert len(ids) == len(USERS)
        with pytest.raises(StaleIndexError, match="from the item tower with"):
            check_fresh(index, trained)
    finally:
        quantizer.codebook.assign(before)
    check_fresh(index, trained)


def test_how_to_train_on_does_not_count(trained: Any, index: Index) -> None:
    quantizer = find_quantizer(trained)
    states = [quantizer.sample, quantizer.step, quantizer.list_lengths]
    states += [quantizer.list_counts, quantizer.code_counts]
    before = [state.numpy() for state in states]
    for state in states:
        state.assign_add(tf.ones_like(state))
    check_fresh(index, trained)
    for state, value in zip(states, before, strict=True):
        state.assign(value)


def test_fingerprints_stay_with_the_index(index: Index, tmp_path: Any) -> None:
    save_index(index, tmp_path / "index")
    vectors = np.ones((1, index.dim), np.float32)
    for other in (
        load_index(tmp_path / "index"),
        index.with_n_probes(1),
        index.remove([3]),
        index.extend([10**6], vectors),
    ):
        assert index_fingerprints(other) == index_fingerprints(index)


def dense(order: tuple[int, int], value: float = 0.5) -> tf.keras.layers.Layer:
    """Two square layers of set weights, which were given in this order."""
    tower = tf.keras.Sequential([tf.keras.layers.Dense(3) for _ in order])
    tower.build((None, 3))
    for i, layer in zip(order, tower.layers, strict=True):
        layer.set_weights([np.full((3, 3), i, "f4"), np.full(3, value, "f4")])
    return tower


def test_order_and_names_do_not_count_but_values_do(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tower_fingerprint(dense((0, 1)))
    assert first == tower_fingerprint(dense((1, 0)))
    assert first != tower_fingerprint(dense((0, 2)))
    assert first != tower_fingerprint(dense((0, 1), value=0.25))
    monkeypatch.setattr(freshness, "CHUNK_BYTES", 13)
    assert first == tower_fingerprint(dense((0, 1)))


@only_v1
def test_what_cannot_be_compared(trained: Any, index: Index) -> None:
    for info in ({}, {INFO_KEY: "abc"}, {INFO_KEY: {"query_tower": "0" * 16}}):
        other = random_index()
        other.info.update(info)
        with pytest.raises(ValueError, match="whether the index fits a model can't be told") as e:
            check_fresh(other, trained)
        assert not isinstance(e.value, StaleIndexError)
    for given in ({}, {"tower": "0" * 16}):
        with pytest.raises(ValueError, match=r"expected some of query_tower, item_tower, got \["):
            check_fresh(index, given)
    with pytest.raises(ValueError, match="expected a tower with weights"):
        tower_fingerprint(mm.MLPBlock([3]))
    with pytest.raises(TypeError, match="expected a Merlin two-tower model"):
        check_fresh(index, tf.keras.Sequential())
    with pytest.raises(ValueError, match="info: expected no key 'fingerprints'"):
        export_index(trained, toy.ITEMS, info={INFO_KEY: {}})


# --- an encoder of both models -------------------------------------------------------------------


def test_encoder_predicts(encoder: mm.TopKEncoder, truth: Any) -> None:
    found = pd.concat(batch_predict(encoder, USERS, batch_size=16))
    np.testing.assert_array_equal(found["user_id"], truth.query_numbers)
    np.testing.assert_array_equal(found["item_id"], truth.item_ids)
    np.testing.assert_allclose(found["score"], truth.scores, atol=1e-5)


@only_v1
def test_encoder_evaluates(encoder: mm.TopKEncoder, truth: Any) -> None:
    _, ids = truth.padded(K, fill_id=-1)
    targets = np.where(np.arange(len(USERS)) % 3 == 0, ids[:, 0], -5)
    encoder.compile(metrics=[mm.RecallAt(K)], run_eagerly=False, k=K)
    data = tf.data.Dataset.from_tensors((FEATURES, tf.constant(targets)))
    recall = encoder.evaluate(data, verbose=0, return_dict=True)[f"recall_at_{K}"]
    assert recall == pytest.approx((targets >= 0).mean())
    assert 0 < recall < 1


@only_v1
def test_encoder_is_saved_and_loaded(encoder: mm.TopKEncoder, truth: Any, tmp_path: Any) -> None:
    save_encoder(encoder, tmp_path / "saved")
    loaded = tf.keras.models.load_model(tmp_path / "saved")
    assert loaded.topk_layer.fingerprints == encoder.topk_layer.fingerprints
    found = pd.concat(batch_predict(loaded, USERS))
    np.testing.assert_array_equal(found["item_id"], truth.item_ids)


@only_v1
def test_a_layer_restored_from_another_index_says_so(index: Index, tmp_path: Any) -> None:
    other = index.with_n_probes(1)
    other.info[INFO_KEY] = {"query_tower": "0" * 15 + "1", "item_tower": "f" * 16}
    layer, donor = IVFPQTopK.from_index(index), IVFPQTopK.from_index(other)
    assert layer.fingerprints == index.info[INFO_KEY]
    tf.train.Checkpoint(layer=donor).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(layer=layer).read(str(tmp_path / "checkpoint")).assert_consumed()
    assert layer.fingerprints == other.info[INFO_KEY]
    other.info.clear()
    assert IVFPQTopK.from_index(other).fingerprints is None


# --- the last, as it trains the model on ---------------------------------------------------------


def test_an_index_is_stale_once_the_model_is_trained_on(
    trained: Any, index: Index, encoder: mm.TopKEncoder
) -> None:
    exported = index.info[INFO_KEY]
    data = Dataset(toy.interactions()[:128], schema=toy.SCHEMA)
    trained.fit(data, batch_size=128, epochs=1, verbose=0)
    now = tower_fingerprints(trained)
    for name in freshness.TOWERS:
        assert now[name] != exported[name]
        with pytest.raises(StaleIndexError, match=f"{now[name]}, got one from {exported[name]}"):
            check_fresh(index, {name: now[name]})
    with pytest.raises(StaleIndexError, match="export the index anew"):
        check_fresh(index, trained)
    with pytest.raises(StaleIndexError, match="from the query tower with"):
        query_vectors(trained, USERS, index=index)
    with pytest.raises(StaleIndexError, match="export the index anew"):
        top_k_encoder(trained, index)
    with pytest.raises(StaleIndexError, match="from the query tower with"):
        next(batch_predict(encoder, USERS))
    check_fresh(export_index(trained, toy.ITEMS), trained)
