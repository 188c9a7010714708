"""Training the query tower against an index that stays as it is."""

import numpy as np
import pytest
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem.blocks import (
    StaleIndexError,
    check_fresh,
    export_index,
    find_quantizer,
    query_vectors,
    refresh_queries,
)
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
from tests.index_factories import random_index


def data():
    return Dataset(interactions(), schema=SCHEMA)


@pytest.mark.parametrize("build", [v1, v2])
def test_queries_learn_while_the_index_stays_and_both_learn_afterwards(build, monkeypatch):
    monkeypatch.setattr(warm_start, "ITERATIONS", 3)
    model = build(make_quantizer())
    train(model, epochs=2)
    quantizer, optimizer, loss = find_quantizer(model), model.optimizer, model.compiled_loss
    index = export_index(model, ITEMS)
    queries, state = query_vectors(model, USERS)[1], quantizer.get_weights()
    history = tf.keras.callbacks.History()
    refreshed = refresh_queries(
        model, index, data(), batch_size=64, epochs=8, verbose=0, callbacks=[history]
    )

    losses = history.history["loss"]
    assert losses[-1] < losses[0]
    assert np.abs(query_vectors(model, USERS)[1] - queries).max() > 1e-3
    for old, new in zip(state, quantizer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    check_fresh(refreshed, model)
    with pytest.raises(StaleIndexError, match="query tower"):
        check_fresh(index, model)
    again = export_index(model, ITEMS)
    np.testing.assert_array_equal(again.packed_codes, refreshed.packed_codes)
    assert again.info == refreshed.info

    def fail(_):
        quantizer.codebook.assign_add(tf.ones_like(quantizer.codebook))

    failing = tf.keras.callbacks.LambdaCallback(on_train_begin=fail)
    with pytest.raises(RuntimeError, match="expected it to stay as it is, got other weights"):
        refresh_queries(model, refreshed, data(), batch_size=64, epochs=0, callbacks=[failing])
    quantizer.set_weights(state)
    check_fresh(refreshed, model)

    assert (model.optimizer, model.compiled_loss) == (optimizer, loss)
    step = int(quantizer.step.numpy())
    model.fit(data(), batch_size=64, epochs=1, verbose=0)
    assert int(quantizer.step.numpy()) > step
    with pytest.raises(StaleIndexError, match="export the index anew"):
        refresh_queries(model, refreshed, data())


def test_before_the_start_there_is_nothing_to_refresh():
    with pytest.raises(RuntimeError, match="expected a started quantizer"):
        refresh_queries(v2(make_quantizer()), random_index(), data())
