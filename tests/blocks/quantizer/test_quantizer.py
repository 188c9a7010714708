"""The layer: its phases, gradient and losses, and that the reference decodes what it learned."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from merlin_poeem.blocks import IVFPQQuantizer
from merlin_poeem.blocks.quantizer import (
    cells,
    coarse,
    losses,
    moving_means,
    product,
    rotation,
    warm_start,
)
from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.suggested_params import suggest_params
from merlin_poeem.search import reference

DIM = 8


@pytest.fixture(autouse=True)
def _few_iterations(monkeypatch):
    monkeypatch.setattr(warm_start, "ITERATIONS", 4)


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


# They look along few directions.
QUERIES = vectors(200, seed=3) * np.geomspace(2, 0.1, DIM, dtype=np.float32)
STRETCHES = pytest.mark.parametrize("stretch", [0.0, 0.5])


def make_quantizer(**options) -> IVFPQQuantizer:
    quantizer = IVFPQQuantizer(
        **{"n_lists": 4, "pq_dim": 2, "pq_bits": 4, "warmup": 2, "sample_size": 64, **options}
    )
    quantizer.build((None, DIM))
    return quantizer


def train_step(quantizer: IVFPQQuantizer, batch: np.ndarray) -> tuple[np.ndarray, float]:
    outputs = quantizer(batch, training=True)
    return outputs.numpy(), float(tf.add_n(quantizer.losses))


def started(**options) -> IVFPQQuantizer:
    quantizer = make_quantizer(**options)
    quantizer.set_weights(
        _started_weights(quantizer.learns_rotation, quantizer.params.metric, quantizer.stretch)
    )
    return quantizer


@functools.cache
def _started_weights(learns_rotation: bool, metric: str, stretch: float) -> list[np.ndarray]:
    quantizer = make_quantizer(warmup=0, rotation=learns_rotation, metric=metric, stretch=stretch)
    quantizer.see_queries(QUERIES)
    train_step(quantizer, vectors(64))
    assert quantizer.is_started.numpy()
    return quantizer.get_weights()


def test_warm_up_passes_vectors_unchanged_and_without_loss():
    quantizer = make_quantizer(warmup=3)
    for step in range(3):
        batch = vectors(64, seed=step)
        outputs, loss = train_step(quantizer, batch)
        np.testing.assert_array_equal(outputs, batch)
        assert loss == 0
        assert not quantizer.is_started.numpy()
    train_step(quantizer, vectors(64))
    assert quantizer.is_started.numpy()


def test_a_share_of_the_training_counts_the_steps_before():
    quantizer = make_quantizer(warmup=0.5)
    quantizer.plan_start(8)
    assert quantizer.warmup_steps.numpy() == 4
    for step in range(3):
        train_step(quantizer, vectors(32, seed=step))
    quantizer.plan_start(3)
    assert quantizer.warmup_steps.numpy() == 3
    train_step(quantizer, vectors(32, seed=3))
    assert quantizer.is_started.numpy()
    quantizer.plan_start(100)
    assert quantizer.warmup_steps.numpy() == 3


def test_a_share_of_an_unknown_training_is_refused():
    quantizer = make_quantizer(warmup=0.5)
    with pytest.raises(ValueError, match=r"warmup = 0.5 is a share .* expected steps_per_epoch="):
        quantizer.plan_start(None)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected callbacks=\[IndexStart"):
        train_step(quantizer, vectors(32))
    make_quantizer(warmup=3).plan_start(None)


def test_start_waits_for_a_full_sample():
    quantizer = make_quantizer(warmup=0, sample_size=100)
    for expected in (False, False, False, True):
        train_step(quantizer, vectors(30))
        assert bool(quantizer.is_started.numpy()) == expected


def test_a_training_too_short_for_the_sample_starts_from_what_came(capfd):
    quantizer = make_quantizer(warmup=0.5, sample_size=100, rotation=False)
    quantizer.plan_start(6)  # 6 batches of 8
    for step in range(4):
        assert not quantizer.is_started.numpy()
        train_step(quantizer, vectors(8, seed=step))
    assert quantizer.is_started.numpy()
    assert (
        "ivfpq_quantizer: the index starts from the 32 item vectors that came, as this training "
        "brings fewer than sample_size = 100" in capfd.readouterr().err
    )
    came = np.concatenate([vectors(8, seed=step) for step in range(4)])
    np.testing.assert_array_equal(quantizer.sample.numpy(), came[np.arange(100) % 32])
    # What comes later takes the places of repeats first.
    train_step(quantizer, vectors(8, seed=9))
    np.testing.assert_array_equal(quantizer.sample.numpy()[:40], [*came, *vectors(8, seed=9)])


@pytest.mark.parametrize("warmup", [0.5, 0.0, 3])
def test_a_training_long_enough_waits_for_a_full_sample(warmup, capfd):
    quantizer = make_quantizer(warmup=warmup, sample_size=100)
    quantizer.plan_start(8)  # of 16: the sample is full after 7
    for step in range(8):
        assert bool(quantizer.is_started.numpy()) == (step > 6)
        train_step(quantizer, vectors(16, seed=step))
    assert "item vectors that came" not in capfd.readouterr().err


def test_says_what_the_start_waits_for():
    quantizer = IVFPQQuantizer(4, 2, 4, warmup=0.5, sample_size=64)
    assert quantizer.waits_for() == "its start is not yet planned (warmup = 0.5): fit does that"
    quantizer = make_quantizer(warmup=1, sample_size=64)
    for n, expected in ((32, "step 2 .warmup = 1.*more epochs"), (31, "64 .*sample_size.*63 came")):
        train_step(quantizer, vectors(n))
        assert re.search(expected, quantizer.waits_for())
    train_step(quantizer, vectors(1))
    assert quantizer.waits_for() is None


def test_sample_holds_the_latest_vectors():
    quantizer = make_quantizer(warmup=100, sample_size=8)
    train_step(quantizer, vectors(6, seed=1))
    train_step(quantizer, vectors(6, seed=2))
    expected = np.concatenate([vectors(6, seed=1), vectors(6, seed=2)])[-8:]
    np.testing.assert_array_equal(
        np.sort(quantizer.sample.numpy(), axis=0), np.sort(expected, axis=0)
    )


def test_batch_larger_than_the_sample():
    quantizer = make_quantizer(warmup=0, sample_size=16)
    train_step(quantizer, vectors(50))
    assert quantizer.is_started.numpy()


@STRETCHES
@pytest.mark.parametrize("learns_rotation", [False, True])
def test_inference_is_what_the_reference_decodes(learns_rotation, stretch):
    quantizer = started(rotation=learns_rotation, stretch=stretch)
    batch = vectors(32, seed=5)
    quantization = quantizer.quantization()
    assert (quantization.rotation is not None) == (learns_rotation or stretch > 0)
    assert (quantization.query_rotation is not None) == (stretch > 0)
    expected = coding.decode(quantization, *coding.encode(quantization, batch))
    np.testing.assert_allclose(quantizer(batch).numpy(), expected, atol=1e-5)


def test_cosine_normalises_in_and_out():
    quantizer = started(metric="cosine")
    batch = vectors(32, seed=5)
    outputs = quantizer(batch).numpy()
    np.testing.assert_allclose(np.linalg.norm(outputs, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(quantizer(3 * batch).numpy(), outputs, atol=1e-5)


def test_float_mode_passes_float_vectors_and_ends():
    quantizer = started()
    batch = vectors(32, seed=5)
    with quantizer.float_mode():
        np.testing.assert_array_equal(quantizer(batch).numpy(), batch)
    assert not np.array_equal(quantizer(batch).numpy(), batch)


def test_float_mode_ends_after_an_error():
    quantizer = started()
    with pytest.raises(KeyError), quantizer.float_mode():
        raise KeyError
    assert not quantizer.passes_float.numpy()


def test_gradient_goes_straight_through():
    quantizer = started(commitment=0, balance=0, float_share=0)
    batch, weights = tf.constant(vectors(16)), tf.constant(vectors(16, seed=9))
    with tf.GradientTape() as tape:
        tape.watch(batch)
        outputs = quantizer(batch, training=True)
        loss = tf.reduce_sum(outputs * weights)
    np.testing.assert_allclose(tape.gradient(loss, batch).numpy(), weights.numpy(), atol=1e-6)
    assert not np.allclose(outputs.numpy(), batch.numpy())


def test_float_share_of_the_rows_passes_unchanged():
    quantizer = started(float_share=0.25, sample_size=64)
    batch = vectors(4000, seed=3)
    outputs, _ = train_step(quantizer, batch)
    share = np.isclose(outputs, batch, atol=1e-6).all(axis=1).mean()
    assert 0.2 < share < 0.3


def test_loss_is_a_mean_over_the_batch():
    batch = vectors(40, seed=4)
    _, once = train_step(started(balance=0), batch)
    _, twice = train_step(started(balance=0), np.concatenate([batch, batch]))
    assert once > 0
    np.testing.assert_allclose(once, twice, rtol=1e-5)


@STRETCHES
def test_commitment_is_the_distortion_in_the_space_of_the_codes(stretch):
    batch = vectors(40, seed=4)
    quantizer = started(commitment=2, balance=0, stretch=stretch)
    quantization = quantizer.quantization()
    decoded = coding.decode_rotated(quantization, *coding.encode(quantization, batch))
    expected = 2 * ((quantization.rotate(batch) - decoded) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(train_step(quantizer, batch)[1], expected, rtol=1e-4)


@STRETCHES
def test_gradients_of_the_loss_draw_vectors_to_their_reconstruction(stretch):
    quantizer = started(commitment=0.5, balance=0, stretch=stretch)
    batch = tf.constant(vectors(16))
    rotation = quantizer.quantization().rotation  # orthogonal where nothing is stretched
    expected = (batch - quantizer(batch)) @ rotation @ rotation.T / 16
    with tf.GradientTape() as tape:
        tape.watch(batch)
        quantizer(batch, training=True)
        loss = tf.add_n(quantizer.losses)
    np.testing.assert_allclose(tape.gradient(loss, batch).numpy(), expected.numpy(), atol=1e-5)


def test_gradient_of_the_imbalance_evens_the_lists():
    quantizer = started(commitment=0, balance=1, rotation=False)
    centroids = quantizer.coarse_centroids
    batch = tf.Variable(tf.repeat(centroids[:1], 32, axis=0) + 0.1 * vectors(32))
    for _ in range(50):
        with tf.GradientTape() as tape:
            loss = losses.imbalance(losses.soft_lists(batch, centroids, 1.0))
        batch.assign_sub(10 * tape.gradient(loss, batch))
    crowded = losses.soft_lists(tf.repeat(centroids[:1], 32, 0), centroids, 1.0)
    assert float(loss) < 0.5 * float(losses.imbalance(crowded))


def test_training_follows_moving_vectors_and_keeps_the_rotation_orthogonal():
    quantizer = started(rotation_interval=5)
    data = np.tanh(vectors(64) @ vectors(DIM, seed=7))

    def distortion() -> float:
        return float(((quantizer(data).numpy() - data) ** 2).sum(axis=1).mean())

    before = distortion()
    for _ in range(60):
        train_step(quantizer, data)
    assert distortion() < 0.7 * before
    matrix = quantizer.rotation.numpy()
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(DIM), atol=1e-5)
    assert not np.allclose(matrix, np.eye(DIM), atol=0.1)


def test_training_turns_a_stretched_space_and_stretches_it_no_further():
    quantizer = started(rotation_interval=5, stretch=0.5)
    before = quantizer.rotation.numpy()
    for step in range(20):
        quantizer.see_queries(vectors(64, seed=step))
        train_step(quantizer, np.tanh(vectors(64) @ vectors(DIM, seed=7)))
    of_items, of_queries = quantizer.rotation.numpy(), quantizer.query_rotation.numpy()
    assert not np.allclose(of_items, before, atol=0.1)
    np.testing.assert_allclose(of_items @ of_items.T, before @ before.T, atol=1e-5)
    np.testing.assert_allclose(of_items.T @ of_queries, np.eye(DIM), atol=1e-5)


def test_no_optimizer_has_a_part_in_the_quantizer():
    assert not make_quantizer().trainable_variables


def test_moving_means_fade_and_stay():
    means, counts = tf.constant([[0.0], [10.0]]), tf.constant([4.0, 4.0])
    arriving, assigned = tf.constant([[6.0], [3.0]]), tf.constant([0, 0])
    means, counts = moving_means.follow(means, counts, arriving, assigned, tf.constant(0.25))
    # The first cell held four times 0, which count as one now; the second got nothing.
    np.testing.assert_allclose(means.numpy(), [[3.0], [10.0]])
    np.testing.assert_allclose(counts.numpy(), [3.0, 1.0])


def test_cells_without_vectors_stay_finite_for_ever():
    quantizer = started()
    for _ in range(200):
        train_step(quantizer, np.repeat(vectors(1), 64, axis=0))
    for variable in (quantizer.coarse_centroids, quantizer.codebook):
        assert np.isfinite(variable.numpy()).all()


@STRETCHES
@pytest.mark.parametrize("learns_rotation", [False, True])
def test_the_joint_phase_scores_lists_as_a_search_of_the_exported_index(learns_rotation, stretch):
    quantizer, catalog = _settled(rotation=learns_rotation, stretch=stretch)
    index = _index_of(quantizer, catalog)
    queries = vectors(50, seed=4)
    queries_rot = index.quantization.rotate_queries(queries)
    np.testing.assert_allclose(
        quantizer._cells.rotate_queries(queries).numpy(), queries_rot, atol=1e-5
    )
    scored = functools.partial(
        reference.list_scores, index.quantization, queries_rot, "inner_product"
    )
    got = queries_rot @ quantizer._joint.probed().numpy().T
    # The index has its scales, and so its lengths, from a table.
    np.testing.assert_allclose(quantizer.list_lengths.numpy(), index.list_lengths, rtol=0.01)
    expected = scored(index.list_factors)
    np.testing.assert_allclose(got, expected / index.list_lengths.mean(), rtol=0.02, atol=1e-6)
    np.testing.assert_array_equal(np.argsort(-got, axis=1), np.argsort(-expected, axis=1))
    assert (np.argsort(-scored(), axis=1) != np.argsort(-expected, axis=1)).any()


def test_by_cosine_the_joint_phase_scores_lists_by_direction():
    quantizer, _ = _settled(metric="cosine")
    centroids = quantizer.coarse_centroids.numpy()
    expected = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    np.testing.assert_allclose(quantizer._joint.probed().numpy(), expected, atol=1e-6)


def _settled(**options) -> tuple[IVFPQQuantizer, np.ndarray]:
    """A quantizer, and the (64, DIM) catalog that it saw as a whole in each step until it rested.

    Its lists are differently wide, so that their centroids are differently much too short.
    """
    rng = np.random.default_rng(6)
    centres = np.repeat(rng.standard_normal((4, DIM)), 16, axis=0)
    widths = np.repeat([0.1, 0.3, 0.5, 0.8], 16)[:, None]
    catalog = np.float32(centres + widths * rng.standard_normal((64, DIM)))
    quantizer = make_quantizer(warmup=0, **options)
    quantizer.see_queries(QUERIES)
    for _ in range(30):
        train_step(quantizer, catalog)
    return quantizer, catalog


def _index_of(quantizer: IVFPQQuantizer, catalog: np.ndarray) -> Index:
    """With item scales, as ``export_index`` makes it."""
    quantization = quantizer.quantization()
    coded = coding.encode(quantization, catalog)
    scales = coding.exact_scales(quantization, catalog, *coded)
    quantization = replace(quantization, scale_range=coding.fit_scale_range(scales))
    return Index.from_vectors(quantizer.params, quantization, np.arange(64), catalog)


def test_a_list_without_vectors_is_as_long_as_its_centroid():
    quantizer = make_quantizer(warmup=0)
    train_step(quantizer, np.repeat(vectors(1), 64, axis=0))
    expected = np.linalg.norm(quantizer.coarse_centroids.numpy(), axis=1)
    assert (quantizer.list_counts.numpy() == 0).any()
    np.testing.assert_allclose(quantizer.list_lengths.numpy(), expected, rtol=1e-5)


def test_lengths_are_those_along_the_reconstruction():
    x_rot, decoded = np.float32([[3, 4], [1, 1], [2, 0]]), np.float32([[2, 0], [0, 0], [-1, 0]])
    np.testing.assert_allclose(cells.lengths_along(x_rot, decoded), [3.0, 0.0, 0.0])


def test_graph_mode_equals_eager_mode():
    def run(wrap) -> np.ndarray:
        quantizer = make_quantizer(rotation_interval=2, stretch=0.5)
        quantizer.see_queries(QUERIES)
        call = wrap(lambda batch: quantizer(batch, training=True))
        for step in range(6):
            call(tf.constant(vectors(64, seed=step)))
        return quantizer(vectors(16, seed=50)).numpy()

    np.testing.assert_allclose(run(tf.function), run(lambda f: f), atol=1e-4)


def test_config_round_trip():
    quantizer = make_quantizer(
        metric="cosine",
        rotation=False,
        stretch=0.3,
        float_share=0.1,
        commitment=3,
        balance=4,
        agreement=0.3,
        list_sharpness=5,
        rotation_interval=6,
        seed=7,
        name="mine",
    )
    config = quantizer.get_config()
    assert IVFPQQuantizer.from_config(config).get_config() == config
    assert (config["commitment"], config["name"], config["metric"]) == (3, "mine", "cosine")


def test_saved_in_the_joint_phase_it_goes_on_where_it_stopped_reports_and_stops(tmp_path):
    quantizer = make_quantizer(float_share=0, stretch=0.5, name="mine")
    model = tf.keras.Sequential([tf.keras.layers.Dense(DIM), quantizer])
    model.compile("adam", "mse")
    data = vectors(64)
    model.fit(data, data, batch_size=64, epochs=5, verbose=0)
    model.save(tmp_path / "model")
    loaded = tf.keras.models.load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded(data).numpy(), model(data).numpy())
    assert int(loaded.layers[-1].step.numpy()) == 5
    assert loaded.layers[-1].health() == quantizer.health()
    before = loaded.layers[-1].codebook.numpy()
    loaded.fit(data, data, batch_size=64, epochs=1, verbose=0)
    assert int(loaded.layers[-1].step.numpy()) == 6
    # The sample is as large as the batch here, so that one step forgets all that came before.
    model.fit(data, data, batch_size=64, epochs=1, verbose=0)
    after = loaded.layers[-1].codebook.numpy()
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, quantizer.codebook.numpy(), atol=1e-5)

    weights = loaded.get_weights()
    data[0, 0] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"loss scal|LossScale") as caught:
        loaded.fit(data, data, batch_size=64, epochs=1, verbose=0)
    assert "mine: item vectors are not finite" in caught.value.message
    assert "step:] [7]" in caught.value.message
    for old, new in zip(weights, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_mixed_precision_quantizes_in_float32():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        quantizer = make_quantizer(stretch=0.5)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert quantizer.codebook.dtype == tf.float32
    assert quantizer(tf.constant(vectors(4), tf.float16)).dtype == tf.float32
    quantizer.see_queries(tf.constant(QUERIES, tf.float16))
    np.testing.assert_allclose(
        quantizer.query_moments.numpy(), QUERIES.T @ QUERIES, rtol=0.02, atol=1
    )


def test_export_before_the_start_is_refused():
    quantizer = make_quantizer()
    train_step(quantizer, vectors(10))
    with pytest.raises(
        RuntimeError, match=r"after 1 training steps; it waits for step 3 \(warmup = 2\)"
    ):
        quantizer.quantization()
    with pytest.raises(
        RuntimeError, match=r"after 0 training steps; .* not yet planned \(warmup = 0.75\)"
    ):
        IVFPQQuantizer(4, 2).quantization()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_lists": 0}, "n_lists: expected at least 1"),
        ({"pq_bits": 5}, "pq_bits: expected one of"),
        ({"metric": "l2"}, "metric: expected inner_product or cosine"),
        ({"warmup": -1}, "warmup: expected a share from 0.0 to below 1, or .* got -1"),
        ({"warmup": 1.0}, "warmup: expected a share .* got 1.0"),
        ({"warmup": float("nan")}, "warmup: expected a share .* got nan"),
        ({"sample_size": 3}, "sample_size: expected at least n_lists = 4, got 3"),
        ({"float_share": 1.0}, "float_share: expected 0 <= share < 1"),
        ({"stretch": -0.1}, "stretch: expected 0 <= stretch <= 1, got -0.1"),
        ({"stretch": 1.1}, "stretch: expected 0 <= stretch <= 1, got 1.1"),
        ({"rotation_interval": 0}, "rotation_interval: expected at least 1"),
        ({"pq_dim": 3}, "pq_dim: expected a divisor of dim = 8, got 3"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_quantizer(**options)


def test_for_a_catalog_it_has_the_sizes_that_are_suggested():
    quantizer = IVFPQQuantizer.for_catalog(10_000, 7, 5, metric="cosine", warmup=3, name="mine")
    suggested = suggest_params(10_000, 7, 5, metric="cosine")
    assert quantizer.params == replace(suggested, n_probes=1)
    assert quantizer.params.pq_bits == 4
    assert (quantizer.warmup, quantizer.name) == (3, "mine")
    assert IVFPQQuantizer.for_catalog(10_000, 64).params.pq_dim == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "l2"}, "metric: expected inner_product or cosine, .* got 'l2'"),
        ({"bytes_per_item": 1}, "bytes_per_item: expected at least 2"),
        ({"sample_size": 3}, "sample_size: expected at least n_lists = 256, got 3"),
    ],
)
def test_bad_options_for_a_catalog(options, message):
    with pytest.raises(ValueError, match=message):
        IVFPQQuantizer.for_catalog(10_000, 64, **options)


@pytest.mark.parametrize("warmup", ["0.5", True])
def test_a_warmup_that_is_no_number_is_refused(warmup):
    with pytest.raises(TypeError, match="warmup: expected a number, got"):
        make_quantizer(warmup=warmup)


# --- the parts -----------------------------------------------------------------------------------


@STRETCHES
def test_nearest_lists_and_codes_equal_the_reference(stretch):
    quantization = started(stretch=stretch).quantization()
    batch = vectors(100, seed=8)
    list_ids, codes = coding.encode(quantization, batch)
    x_rot = quantization.rotate(batch)
    found = coarse.nearest_lists(x_rot, quantization.coarse_centroids)
    np.testing.assert_array_equal(found.numpy(), list_ids)
    residuals = x_rot - quantization.coarse_centroids[list_ids]
    codebook = tf.constant(quantization.codebook)
    found = product.nearest_codes(tf.constant(residuals), codebook)
    np.testing.assert_array_equal(found.numpy(), codes)


def test_imbalance_is_zero_for_even_lists_and_grows():
    centroids = np.float32([[-1, 0], [1, 0]])
    even = np.float32([[-1, 0], [1, 0]])
    assert float(losses.imbalance(losses.soft_lists(even, centroids, 10.0))) == pytest.approx(
        0, abs=1e-4
    )
    uneven = losses.soft_lists(np.float32([[1, 0], [1, 0]]), centroids, 10.0)
    assert float(losses.imbalance(uneven)) == pytest.approx(np.log(2), abs=1e-3)


def test_procrustes_finds_a_rotation():
    truth = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0].astype(np.float32)
    data = vectors(50)
    np.testing.assert_allclose(rotation.procrustes(data, data @ truth).numpy(), truth, atol=1e-4)


def test_kmeans_lowers_the_distortion_to_a_fixed_point(monkeypatch):
    data = tf.constant(vectors(200)[None])
    distortions = []
    for iterations in (0, 1, 40, 41):
        monkeypatch.setattr(warm_start, "ITERATIONS", iterations)
        _, distances = warm_start.assign(data, warm_start.kmeans(data, 4, seed=0))
        distortions.append(float(tf.reduce_mean(distances)))
    assert distortions[0] > distortions[1] > distortions[2]
    assert distortions[2] == pytest.approx(distortions[3])


def test_lloyd_step_moves_an_empty_cluster_to_the_worst_point():
    points = tf.constant([[[0.0], [1.0], [9.0]]])
    centroids = tf.constant([[[0.5], [100.0]]])
    found = warm_start.lloyd_step(points, centroids).numpy()
    np.testing.assert_allclose(found, [[[10 / 3], [9.0]]], rtol=1e-6)


def test_kmeans_with_fewer_points_than_clusters():
    points = tf.constant(vectors(3)[None])
    found = warm_start.kmeans(points, 8, seed=0).numpy()[0]
    assert np.isfinite(found).all()
    distances = ((vectors(3)[:, None] - found[None]) ** 2).sum(axis=2)
    assert distances.min(axis=1).max() < 1e-6


def test_assign_in_chunks_equals_assign_at_once(monkeypatch):
    points, centroids = tf.constant(vectors(50)[None]), tf.constant(vectors(5, seed=2)[None])
    at_once = [t.numpy() for t in warm_start.assign(points, centroids)]
    monkeypatch.setattr(warm_start, "CHUNK_DISTANCES", 35)
    in_chunks = [t.numpy() for t in warm_start.assign(points, centroids)]
    np.testing.assert_array_equal(at_once[0], in_chunks[0])
    np.testing.assert_allclose(at_once[1], in_chunks[1], atol=1e-5)


def test_rotation_lowers_the_distortion_of_correlated_residuals():
    mixing = np.diag(np.linspace(2, 0.1, DIM)) @ np.linalg.qr(vectors(DIM))[0]
    data = tf.constant((vectors(500) @ mixing).astype(np.float32))
    distortions = []
    for rotate in (False, True):
        codebook, matrix = warm_start.initial_codebook(data, 4, 16, rotate=rotate, seed=0)
        rotated = tf.matmul(data, matrix)
        decoded = product.decode(product.nearest_codes(rotated, codebook), codebook)
        distortions.append(float(tf.reduce_mean((rotated - decoded) ** 2)))
    assert distortions[1] < 0.9 * distortions[0]
