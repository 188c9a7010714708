"""No collapse, and if one comes it says its name: revivals, reports, and what stops a training."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from merlin_poeem.blocks import IVFPQQuantizer
from merlin_poeem.blocks.quantizer import health, warm_start
from merlin_poeem.blocks.quantizer.health import CHECKS, Health
from tests.blocks.quantizer.test_quantizer import (
    DIM,
    QUERIES,
    make_quantizer,
    started,
    train_step,
    vectors,
)

SOUND = Health(
    dead_lists=0.0,
    dead_codewords=0.0,
    max_over_mean_list=1.2,
    list_evenness=0.9,
    spread=0.5,
    growth=1.0,
    distortion=0.2,
)


@pytest.fixture(autouse=True)
def _few_iterations(monkeypatch):
    monkeypatch.setattr(warm_start, "ITERATIONS", 4)


@pytest.fixture(scope="module")
def traced() -> IVFPQQuantizer:
    """One for all tests that train far enough to trace how it starts and how it looks at itself."""
    return make_quantizer(rotation=False, stretch=0.5, rotation_interval=4, name="mine")


@pytest.fixture
def fresh(traced):
    """Before its start."""
    traced.set_weights(make_quantizer(rotation=False, stretch=0.5).get_weights())
    traced.see_queries(QUERIES)
    return traced


@pytest.fixture
def quantizer(traced):
    """Right after its start, which was its first step."""
    traced.set_weights(started(rotation=False, stretch=0.5).get_weights())
    return traced


# --- revival -------------------------------------------------------------------------------------


def revive(centroids, dead, points, nearest, distances, seed: int = 0) -> np.ndarray:
    args = (np.float32(centroids), dead, np.float32(points), nearest, np.float32(distances))
    return warm_start.revive(*(tf.constant([a]) for a in args), tf.constant([0, seed])).numpy()[0]


def test_the_dead_split_a_badly_represented_cell_and_the_others_stay():
    moved = revive(
        centroids=[[0.0], [50.0], [4.0]],
        dead=[False, True, False],
        points=[[0.0], [0.0], [9.0], [0.0]],
        nearest=[0, 0, 2, 0],
        distances=[0.0, 0.0, 25.0, 0.0],
    )
    np.testing.assert_allclose(moved, [[0.0], [4.0 + 0.1 * 5.0], [4.0]])


def test_revivals_are_drawn_in_proportion_to_the_squared_distance():
    def draws() -> np.ndarray:
        sets = (  # 400 of them, the same each: a point beside each of two cells, the second dead
            np.float32([[0.0], [9.0]]),
            np.array([False, True]),
            np.float32([[1.0], [2.0]]),
            np.array([0, 0]),
            np.float32([1.0, 3.0]),
        )
        repeated = (tf.constant(np.repeat(a[None], 400, axis=0)) for a in sets)
        return warm_start.revive(*repeated, tf.constant([0, 7])).numpy()[:, 1, 0]

    drawn = draws()
    assert np.mean(np.isclose(drawn, 0.2)) == pytest.approx(0.75, abs=0.06)
    assert np.mean(np.isclose(drawn, 0.1)) == pytest.approx(0.25, abs=0.06)
    np.testing.assert_array_equal(draws(), drawn)


def test_a_revived_cell_takes_about_half_of_a_cell_even_in_many_dimensions():
    points = np.random.default_rng(0).standard_normal((1000, 64))
    distances = (points**2).sum(axis=1)
    centroids = revive([[0.0] * 64, [99.0] * 64], [False, True], points, [0] * 1000, distances)
    (nearest,), _ = warm_start.assign(tf.constant(np.float32(points)[None]), centroids[None])
    assert 0.2 < np.mean(nearest.numpy() == 1) < 0.5


def test_several_dead_cells_go_to_different_places():
    moved = revive(np.zeros((6, DIM)), [True] * 6, vectors(20), [0] * 20, np.ones(20))
    assert len(np.unique(moved, axis=0)) == 6


def test_a_cell_is_dead_without_count_without_sample_and_where_it_is_missed():
    counts = tf.constant([[0.5, 0.5, 2.0, 30.0], [0.5, 0.5, 2.0, 30.0]])
    arrived = tf.constant([[0.0, 1.0, 0.0, 9.0], [0.0, 1.0, 0.0, 9.0]])
    far_and_near = tf.constant([[0.5] * 10, [1e-5] * 10])
    found = health.dead_cells(counts, arrived, far_and_near, tf.constant(1.0))
    np.testing.assert_array_equal(found, [[True, False, False, False], [False] * 4])


def _bury(quantizer) -> None:
    """Put a list and a codeword where nothing will ever come, as a run-away training does."""
    quantizer.coarse_centroids.scatter_nd_update([[2]], tf.fill([1, DIM], 1e3))
    quantizer.codebook.scatter_nd_update([[1, 5]], tf.fill([1, DIM // 2], 1e3))
    quantizer.list_counts.scatter_nd_update([[2]], [0.0])
    quantizer.list_lengths.scatter_nd_update([[2]], [1e3])
    quantizer.code_counts.scatter_nd_update([[1, 5]], [0.0])


def test_dead_lists_and_codewords_come_back_in_training_without_rotation_too(quantizer, capfd):
    _bury(quantizer)
    train_step(quantizer, vectors(64))
    found = quantizer.health()
    assert found.dead_lists == 1 / 4
    assert found.dead_codewords >= 1 / 32
    assert found.problems()[0].startswith("25.0 % of the lists are dead: raise balance=")
    assert "dead" not in capfd.readouterr().err
    for _ in range(4):
        train_step(quantizer, vectors(64))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mine")]
    assert lines[0] == f"mine, step 4: {found.problems()[0]}"
    assert len(lines) == len({line.split(" % ")[-1] for line in lines})
    after = quantizer.health()
    assert after.dead_lists == 0
    assert quantizer.code_counts.numpy()[1, 5] > 0
    assert abs(quantizer.coarse_centroids.numpy()).max() < 10
    assert abs(quantizer.codebook.numpy()).max() < 10
    assert quantizer.list_lengths.numpy().max() < 10


def test_a_revived_list_has_the_length_of_the_one_it_splits(quantizer):
    _bury(quantizer)
    look, values = quantizer._phases.look(), quantizer._cells.values()
    x_rot, seed = quantizer._cells.rotate(quantizer.sample), tf.constant([0, 1], tf.int64)
    found = health.revived(look, x_rot, tf.fill([64], 7.0), values, seed)
    # A tenth of the way from the centroid that was split to the drawn vector, whose length is 7.
    revived, centroids = found.coarse_centroids[2], values.coarse_centroids.numpy()
    places = centroids[look.list_ids] + 0.1 * (x_rot - centroids[look.list_ids])
    drawn = np.abs(places - revived).sum(axis=1).argmin()
    split = values.list_lengths.numpy()[look.list_ids[drawn]]
    assert float(found.list_lengths[2]) == pytest.approx(split + 0.1 * (7 - split), rel=1e-5)
    others = [0, 1, 3]
    np.testing.assert_array_equal(
        found.list_lengths.numpy()[others], values.list_lengths.numpy()[others]
    )


def test_where_nothing_is_dead_nothing_is_touched(quantizer):
    looks_never = started(rotation=False, stretch=0.5, rotation_interval=1000)
    for either in (quantizer, looks_never):
        either.code_counts.assign(tf.fill([2, 16], 9.0))
        for step in range(5):
            train_step(either, vectors(8, seed=step))
    assert quantizer.health().dead_codewords == 0
    for weights, expected in zip(quantizer.get_weights(), looks_never.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)


def test_fewer_items_than_codewords_leave_spare_ones_in_peace(fresh, capfd):
    catalog = np.repeat(vectors(10), 7, axis=0)[:64]
    for _ in range(32):
        train_step(fresh, catalog)
    books = fresh.codebook.numpy()
    for _ in range(fresh.rotation_interval):
        train_step(fresh, catalog)
    np.testing.assert_allclose(fresh.codebook.numpy(), books, atol=1e-6)
    assert np.isfinite(books).all()
    assert fresh.health().problems() == []
    assert "mine" not in capfd.readouterr().err
    assert (fresh.code_counts.numpy() < health.LEAST_COUNT).any()


# --- reports -------------------------------------------------------------------------------------


def test_a_sound_quantizer_has_no_problems():
    assert SOUND.problems() == []
    assert started().health().distortion < 0.5


@pytest.mark.parametrize(
    ("measure", "sound", "beyond", "says"),
    [
        ("dead_lists", 0.01, 0.0361, "3.6 % of the lists are dead: raise balance="),
        ("dead_codewords", 0.01, 0.25, "25.0 % of the codewords are dead: lower the learning rate"),
        ("list_evenness", 0.1, 0.03, "lists collapse, their use is 3.0 % even: raise balance="),
        ("spread", 0.01, 0.0012, "item vectors collapse, their variance is 0.12 %"),
        ("growth", 100.0, 250.0, "towers diverge, item vectors are 250.0 times as long"),
        ("distortion", 1.0, 1.5, "the distortion is 1.50 times the item vectors' variance"),
    ],
)
def test_each_limit_has_a_sentence(measure, sound, beyond, says):
    assert replace(SOUND, **{measure: sound}).problems() == []
    (problem,) = replace(SOUND, **{measure: beyond}).problems()
    assert problem.startswith(says)
    (check,) = (check for check in CHECKS if check.measure == measure)
    assert check.text_in_graph(tf.constant(beyond)).numpy().decode() == problem


def test_evenness_of_use():
    assert float(health.evenness(tf.constant([5.0, 5.0, 5.0]))) == pytest.approx(1)
    assert float(health.evenness(tf.constant([9.0, 0.0, 0.0]))) == pytest.approx(0)
    assert float(health.evenness(tf.constant([9.0]))) == 1


def test_collapse_and_divergence_are_reported_in_a_graph(quantizer, capfd):
    call = tf.function(lambda batch: quantizer(batch, training=True))
    for step in range(2, 8):
        call(tf.constant(1000 + vectors(64, seed=step)))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mine")]
    assert len([line for line in lines if line.startswith("mine, step 4: item vectors coll")]) == 1
    assert any("step 4: towers diverge, item vectors are" in line for line in lines)
    assert all(line.startswith("mine, step 4: ") for line in lines)


def test_health_before_the_start_is_refused():
    with pytest.raises(RuntimeError, match="expected a started quantizer"):
        make_quantizer().health()


# --- what is not finite --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_vectors_that_are_not_finite_stop_and_change_nothing(bad):
    quantizer = started(name="mine")
    before = quantizer.get_weights()
    batch = vectors(64)
    batch[3, 1] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"mine: item vectors are not finite"):
        quantizer(batch, training=True)
    for old, new in zip(before, quantizer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# --- repeatability -------------------------------------------------------------------------------


def trained_index() -> bytes:
    """The bytes of all that a small two-tower model has learned, seeded, threads as users have."""
    tf.keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    users, items = (tf.keras.Input([], dtype=tf.int64) for _ in range(2))
    quantizer = make_quantizer(rotation_interval=7, warmup=5, sample_size=1024)
    vectors_of = [tf.keras.layers.Embedding(n, DIM) for n in (500, 3000)]
    logits = tf.matmul(vectors_of[0](users), quantizer(vectors_of[1](items)), transpose_b=True)
    model = tf.keras.Model([users, items], logits)
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pairs = rng.zipf(1.3, (2, 20 * 256)) % 500
    model.fit(list(pairs), np.tile(np.arange(256), 20), batch_size=256, verbose=0, shuffle=True)
    assert quantizer.is_started.numpy()
    return b"".join(np.ascontiguousarray(weights).tobytes() for weights in model.get_weights())


def test_seeded_trainings_repeat_bit_for_bit_in_another_process():
    code = (
        "import sys\n"
        "from merlin_poeem.blocks.quantizer import warm_start\n"
        "from tests.blocks.quantizer.test_health import trained_index\n"
        "warm_start.ITERATIONS = 4\n"
        "sys.stdout.buffer.write(trained_index())\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert found == trained_index()
