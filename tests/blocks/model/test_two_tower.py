"""Attaching to Merlin's models, V1 and V2: training, export, saving, and the pitfalls by name."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import Tags

from merlin_poeem import open_searcher
from merlin_poeem.blocks import (
    IndexStart,
    QuantizedRecall,
    QuantizedTwoTowerModel,
    QuantizedTwoTowerModelV2,
    check_fresh,
    encode_items,
    export_index,
    find_quantizer,
    item_vectors,
    query_vectors,
)
from merlin_poeem.blocks.model.list_agreement import ListAgreement
from merlin_poeem.blocks.model.seen_queries import SeenQueries
from merlin_poeem.blocks.quantizer import warm_start
from merlin_poeem.evaluate import exact_search
from merlin_poeem.quantization import coding
from tests.blocks.toy import (
    DIM,
    ITEMS,
    N_ITEMS,
    N_USERS,
    SCHEMA,
    USERS,
    encoder,
    interactions,
    make_quantizer,
    mlp,
    train,
    trained_model,
    v1,
    v2,
)


@pytest.fixture(autouse=True)
def _few_iterations(monkeypatch):
    monkeypatch.setattr(warm_start, "ITERATIONS", 3)


@pytest.fixture(scope="module", params=[v1, v2], ids=["V1", "V2"])
def trained(request):
    return trained_model(request.param)


def test_the_item_tower_returns_what_the_index_decodes(trained):
    index = export_index(trained, ITEMS, n_probes=2)
    assert (index.n_items, index.params.n_probes) == (N_ITEMS, 2)
    assert index.params.metric == "cosine"
    decoded = index.decode(ITEMS["item_id"])
    decoded /= np.linalg.norm(decoded, axis=1, keepdims=True)
    tower = _outputs(trained)
    np.testing.assert_allclose(tower, decoded, atol=1e-5)
    item_ids, floats = item_vectors(trained, ITEMS)
    np.testing.assert_array_equal(item_ids, ITEMS["item_id"])
    assert not np.allclose(floats, decoded, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(floats, axis=1), 1, atol=1e-5)


def _outputs(model) -> np.ndarray:
    """The item tower's output by Merlin's own means: quantized."""
    from merlin_poeem.blocks.model.towers import item_tower_of

    dataset = Dataset(ITEMS, schema=SCHEMA.select_by_tag(Tags.ITEM))
    loader = mm.Loader(dataset, batch_size=64, shuffle=False)
    return np.concatenate([item_tower_of(model)(x).numpy() for x, _ in loader])


def test_scores_of_the_index_are_the_models_scores(trained):
    _, queries = query_vectors(trained, USERS)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    index = export_index(trained, ITEMS)
    found = open_searcher(index).search(queries, k=N_ITEMS, n_probes=4)
    scores, item_ids = found.padded(N_ITEMS, fill_id=-1)
    # The tower's outputs are of unit length, and what the index decodes has the items' scales.
    lengths = np.linalg.norm(index.decode(ITEMS["item_id"]), axis=1)
    expected = queries @ _outputs(trained).T * lengths
    np.testing.assert_allclose(scores, np.take_along_axis(expected, item_ids, 1), atol=1e-5)


def test_items_with_scales_are_decoded_nearer_to_their_float_vectors(trained):
    item_ids, vectors = item_vectors(trained, ITEMS)
    index = export_index(trained, ITEMS)
    quantization, coded = index.quantization, index.coded(index.rows_of(item_ids))
    # In the space in which codes are chosen.
    x_rot = quantization.rotate(vectors)
    scaled = coding.decode_rotated(quantization, *coded)
    unscaled = coding.decode_rotated(replace(quantization, scale_range=None), *coded[:2])
    with_scales, without = (np.linalg.norm(x_rot - each, axis=1) for each in (scaled, unscaled))
    # Least squares, but for the grid of scales, which is well below a percent.
    assert (with_scales <= without + 1e-4).all()
    assert with_scales.mean() < without.mean()


def test_batches_partitions_and_repeated_rows_make_no_difference(trained):
    whole = encode_items(trained, ITEMS, batch_size=1000)
    repeated = pd.concat([ITEMS, ITEMS])
    for items in (ITEMS, repeated, Dataset(repeated, npartitions=3, schema=SCHEMA)):
        parts = encode_items(trained, items, batch_size=7)
        np.testing.assert_array_equal(parts.item_ids, whole.item_ids)
        np.testing.assert_array_equal(parts.codes, whole.codes)


def test_ids_of_another_column(trained):
    original = ITEMS.assign(original=ITEMS["item_id"] + 2**40)
    codes = encode_items(trained, original, id_column="original")
    np.testing.assert_array_equal(codes.item_ids, original["original"])


def check_saved(model, path: Path) -> None:
    """What was saved of ``model`` exports the same and trains on."""
    loaded = tf.keras.models.load_model(path)
    before = find_quantizer(model).step.numpy()
    ours, theirs = encode_items(model, ITEMS), encode_items(loaded, ITEMS)
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.list_ids, theirs.list_ids)
    check_fresh(export_index(model, ITEMS), loaded)
    v2_model = isinstance(loaded, mm.RetrievalModelV2)
    after_towers = (loaded.encoder if v2_model else loaded.retrieval_block).post.layers
    assert [type(layer) for layer in after_towers] == [SeenQueries, ListAgreement]
    for layer in after_towers:
        assert layer.quantizer is find_quantizer(loaded)
    seen = find_quantizer(loaded).query_moments.numpy()
    train(loaded)
    assert find_quantizer(loaded).step.numpy() == before + 8
    assert not np.array_equal(find_quantizer(loaded).query_moments.numpy(), seen)
    assert len(encode_items(loaded, ITEMS)) == N_ITEMS


@pytest.mark.parametrize("build", [v1, v2], ids=["V1", "V2"])
def test_saved_model_exports_the_same_and_trains_on(build, saved_toy):
    check_saved(trained_model(build), saved_toy(build))


def test_bad_datasets(trained):
    with pytest.raises(ValueError, match=r"expected the columns \['category'\], got \['item_id'\]"):
        encode_items(trained, ITEMS[["item_id"]])
    with pytest.raises(ValueError, match="expected at least one row"):
        encode_items(trained, ITEMS[:0])
    with pytest.raises(TypeError, match=r"expected a merlin.io.Dataset or a DataFrame, got dict"):
        encode_items(trained, {})
    with pytest.raises(ValueError, match="'item_id': expected no nulls, got 4, first in row 0"):
        encode_items(trained, ITEMS.assign(item_id=ITEMS["item_id"].where(ITEMS["item_id"] > 3)))
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        encode_items(trained, ITEMS, batch_size=0)


@pytest.mark.parametrize("build", [v1, v2])
def test_a_share_is_of_the_training_that_fit_is_told_of(build):
    quantizer = make_quantizer(warmup=0.75)
    model = build(quantizer)
    started = []
    watch = tf.keras.callbacks.LambdaCallback(
        on_batch_end=lambda *_, **__: started.append(bool(quantizer.is_started.numpy()))
    )
    train(model, epochs=2, callbacks=watch, run_eagerly=True)
    assert started == 12 * [False] + 4 * [True]
    train(model, epochs=4, run_eagerly=True)
    assert quantizer.warmup_steps.numpy() == 12


def told(caplog) -> list[str]:
    """What this package has logged, of all that is."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("merlin_poeem")]


def test_export_before_the_start_is_refused(caplog):
    model = v2(make_quantizer(warmup=1000))
    train(model, run_eagerly=True)
    assert told(caplog) == [
        "ivfpq_quantizer: the index has not started; it waits for step 1001 (warmup = 1000): train "
        "longer, with more epochs, or give it a smaller warmup"
    ]
    with pytest.raises(RuntimeError, match="after 8 training steps"):
        export_index(model, ITEMS)
    assert len(item_vectors(model, ITEMS)[0]) == N_ITEMS


@pytest.mark.parametrize("build", [v1, v2])
def test_a_training_too_short_for_the_sample_starts_an_index_all_the_same(build, capfd, caplog):
    model = build(make_quantizer(warmup=0.75, sample_size=4096))
    train(model, run_eagerly=True)  # of 1024 rows, in eight batches
    assert "the index starts from the 896 item vectors that came" in capfd.readouterr().err
    assert export_index(model, ITEMS).n_items == N_ITEMS
    assert not told(caplog)


@pytest.mark.parametrize("build", [v1, v2])
def test_more_lists_than_items_are_said(build, caplog):
    train(build(make_quantizer(n_lists=N_ITEMS + 1)), run_eagerly=True)
    assert told(caplog) == [
        "ivfpq_quantizer: n_lists = 51, and there are 50 items by the schema's domain of their "
        "ids: lists will be empty; IVFPQQuantizer.for_catalog(50, dim) takes as many as suit"
    ]
    caplog.clear()
    train(build(make_quantizer(n_lists=N_ITEMS)), run_eagerly=True)
    assert not told(caplog)


def test_float_vectors_of_a_model_without_quantizer():
    model = mm.TwoTowerModelV2(encoder(Tags.USER), encoder(Tags.ITEM), schema=SCHEMA)
    train(model)
    assert item_vectors(model, ITEMS)[1].shape == (N_ITEMS, DIM)
    with pytest.raises(ValueError, match="expected one IVFPQQuantizer, got 0"):
        find_quantizer(model)


def test_callback_reports_both_recalls():
    held_out = interactions()[:N_USERS]
    callback = QuantizedRecall(
        USERS.loc[held_out["user_id"]], ITEMS, held_out[["item_id"]].to_numpy(), k=20, n_probes=4
    )
    history = train(v2(make_quantizer(warmup=10)), epochs=3, callbacks=[callback]).history
    assert len(history["float_recall_at_20"]) == 3
    # The quantizer starts in the second epoch: eight steps make one.
    assert len(history["quantized_recall_at_20"]) == len(history["max_over_mean_list"]) == 2
    assert all(0 < value <= 1 for value in history["quantized_recall_at_20"])
    assert history["max_over_mean_list"][-1] >= 1


def test_callback_searches_with_the_suggested_probes_and_says_so_once(caplog):
    caplog.set_level(logging.INFO, logger="merlin_poeem")
    right = np.arange(N_USERS)[:, None] % N_ITEMS
    callback = QuantizedRecall(USERS, ITEMS, right, k=N_ITEMS)
    history = train(v2(make_quantizer()), epochs=2, callbacks=[callback]).history
    # All of a small catalog: one list would not hold each user's item.
    assert history["quantized_recall_at_50"] == [1, 1]
    assert callback.n_probes == 4
    assert sum("n_probes: 4 of 4 lists" in message for message in caplog.messages) == 1


def test_callback_looks_again():
    model = v2(make_quantizer(warmup=1))
    train(model)
    # What exact search finds is right: whatever was learned, the codes alone do not find all of it.
    found = exact_search(*item_vectors(model, ITEMS), query_vectors(model, USERS)[1], k=3)
    relevant = found.item_ids.reshape(N_USERS, 3)
    recalls = []
    for refine in (0, N_ITEMS):
        callback = QuantizedRecall(USERS, ITEMS, relevant, k=3, n_probes=4, refine=refine)
        callback.set_model(model)
        callback.on_epoch_end(0, logs := {})
        assert logs["float_recall_at_3"] == pytest.approx(1)
        recalls.append(logs["quantized_recall_at_3"])
    # All items looked at again by their own vectors, but for ties in float16.
    assert recalls[0] < 0.95 < recalls[1]
    with pytest.raises(ValueError, match="refine: expected at least 0, got -1"):
        QuantizedRecall(USERS, ITEMS, relevant, refine=-1)


def test_temperature_acts_on_both_models():
    for build in (v1, v2):
        losses = []
        for temperature in (1.0, 0.1):
            tf.keras.utils.set_random_seed(0)
            quantizer = make_quantizer(metric="cosine", warmup=1000)
            model = build(quantizer, logits_temperature=temperature)
            losses.append(train(model, run_eagerly=True).history["loss"][0])
        # Cosines of untrained towers ten times as large: a softmax far from even.
        assert abs(losses[1] - losses[0]) > 0.1


# --- the pitfalls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda q: v1(q, l2_normalization=True), "l2_normalization: expected False"),
        (lambda q: v1(q, post=mm.L2Norm()), "post: expected None"),
        (
            lambda q: v1(q, prediction_tasks=mm.ItemRetrievalTask(SCHEMA), logits_temperature=0.1),
            "logits_temperature, samplers: expected none beside prediction_tasks",
        ),
        (
            lambda q: QuantizedTwoTowerModel(SCHEMA, mm.MLPBlock([DIM]), q),
            "query_tower: expected no activation in the last layer, got relu",
        ),
        (
            lambda q: QuantizedTwoTowerModel(SCHEMA, mlp(), q, item_tower=mm.MLPBlock([DIM])),
            "item_tower: expected no activation in the last layer, got relu",
        ),
        (
            lambda q: QuantizedTwoTowerModel(SCHEMA, mlp().connect(make_quantizer()), q),
            "query_tower: expected a tower without quantizer",
        ),
        (
            lambda q: QuantizedTwoTowerModelV2(
                encoder(Tags.USER), encoder(Tags.ITEM, post=mm.L2Norm()), q, schema=SCHEMA
            ),
            "candidate_tower: expected no post=",
        ),
        (
            lambda q: QuantizedTwoTowerModelV2(*[encoder(Tags.USER)] * 2, q, schema=SCHEMA),
            "candidate_tower: expected another encoder",
        ),
    ],
)
def test_pitfalls_when_attaching(build, message):
    with pytest.raises(ValueError, match=message):
        build(make_quantizer())


def test_a_query_tower_copied_with_the_quantizer_is_found():
    model = mm.TwoTowerModel(SCHEMA, mlp().connect(make_quantizer()))
    with pytest.raises(ValueError, match=r"query tower: expected no quantizer.*copies the query"):
        find_quantizer(model)


def test_a_layer_after_the_quantizer_is_found():
    item_tower = mlp().connect(make_quantizer()).connect(mm.L2Norm())
    model = mm.TwoTowerModel(SCHEMA, mlp(), item_tower=item_tower)
    with pytest.raises(ValueError, match="expected the quantizer to be the last layer, got l2"):
        find_quantizer(model)


def test_a_block_on_both_towers_is_found():
    model = mm.TwoTowerModel(
        SCHEMA, mlp(), item_tower=mlp().connect(make_quantizer()), post=mm.L2Norm()
    )
    with pytest.raises(ValueError, match="post: expected none, got l2"):
        find_quantizer(model)


def test_merlins_own_way_of_attaching_works_too(capfd):
    quantizer = make_quantizer(warmup=0.5)
    model = mm.TwoTowerModel(SCHEMA, mlp(), item_tower=mlp().connect(quantizer))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected callbacks=\[IndexStart"):
        train(model, run_eagerly=True)
    train(model, callbacks=[IndexStart()])
    index = export_index(model, ITEMS)
    assert index.n_items == N_ITEMS
    # Merlin shows it no queries.
    assert index.quantization.query_rotation is None
    assert capfd.readouterr().err.count("the space of the index is not stretched") == 1


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"a Merlin two-tower model, got keras\.Sequential"):
        find_quantizer(tf.keras.Sequential())
