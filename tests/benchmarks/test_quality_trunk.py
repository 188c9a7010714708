"""A trunk and its branches: the towers that a training in one piece would have had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from merlin.models.tf.models import base  # noqa: E402

from benchmarks.quality import jobs, towers  # noqa: E402
from benchmarks.quality.trial import TrialName  # noqa: E402
from benchmarks.quality.trunk import GiveOptimizer, Trunk  # noqa: E402
from benchmarks.quality.variants import VARIANTS, Variant, variant_of  # noqa: E402
from merlin_poeem.blocks import item_vectors, query_vectors  # noqa: E402
from merlin_poeem.blocks.model.towers import find_quantizer  # noqa: E402
from workflows.gowalla import simulate as gowalla_simulate  # noqa: E402
from workflows.gowalla import towers as gowalla  # noqa: E402
from workflows.movielens import simulate as movielens_simulate  # noqa: E402
from workflows.movielens import towers as movielens  # noqa: E402
from workflows.training import n_steps  # noqa: E402

TINY = Variant(pq_dim=4, pq_bits=4, options={"sample_size": 1024, "balance": 0.5})
BATCH_SIZE = {"gowalla": 256, "movielens-1m": 256, "tutorial": 128, "aliccp": 256}
MAKE_JOB = {
    "gowalla": lambda: jobs.gowalla_job(gowalla_simulate.simulate(150, 300), seed=0),
    "movielens-1m": lambda: jobs.movielens_job(movielens_simulate.simulate("1m", share=0.01)),
    "tutorial": lambda: jobs.tutorial_job(0, 20_000),
    "aliccp": lambda: jobs.aliccp_job("validation", 50_000),
}


@pytest.fixture(scope="module", autouse=True)
def in_order() -> Iterator[None]:
    """Batches come in the order of the pairs: Merlin's ``fit`` has no such choice."""
    convert = base._maybe_convert_merlin_dataset

    def unshuffled(data: Any, batch_size: int, **how: Any) -> Any:
        return convert(data, batch_size, **{**how, "shuffle": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_maybe_convert_merlin_dataset", unshuffled)
        yield


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Small vectors, few lists and short batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "ours-8", TINY)
        for task in (gowalla, movielens):
            patch.setattr(task, "DIM", 16)
            patch.setattr(task, "N_LISTS", 16)
            patch.setattr(task, "BATCH_SIZE", 256)
        patch.setattr(gowalla, "LEARNING_RATE", 4.0)
        yield


@pytest.fixture(scope="module", params=MAKE_JOB)
def job(request: pytest.FixtureRequest) -> tuple[TrialName, jobs.Job]:
    job = MAKE_JOB[request.param]()
    return TrialName(request.param, "plain", 3), job


@pytest.fixture(scope="module")
def trunk(job: tuple[TrialName, jobs.Job], tmp_path_factory: pytest.TempPathFactory) -> Trunk:
    """After a file."""
    name, job = job
    folder = tmp_path_factory.mktemp("trunk")
    towers.train_trunk(job, name).save(folder)
    return Trunk.load(folder)


def test_a_plain_branch_is_the_training_in_one_piece(
    job: tuple[TrialName, jobs.Job], trunk: Trunk
) -> None:
    name, job = job
    assert 0 < trunk.epochs < job.epochs
    whole, branch = (towers.run_job(job, name, parent) for parent in (None, trunk))
    for vectors in ("queries", "item_vectors"):
        np.testing.assert_allclose(getattr(branch, vectors), getattr(whole, vectors), atol=2e-5)
    assert branch.facts["seconds"] > trunk.facts["seconds"]


def test_a_branch_moves_on_from_the_trunk(job: tuple[TrialName, jobs.Job], trunk: Trunk) -> None:
    name, job = job
    model = job.plain_model()
    towers.branch_off(model, trunk, job, seed=0)
    for variable, weight in zip(model.trainable_variables, trunk.weights, strict=True):
        np.testing.assert_array_equal(variable, weight)
    job.train(model, initial_epoch=trunk.epochs, callbacks=[GiveOptimizer(trunk)])
    assert model.optimizer.iterations == n_steps(job.n_pairs, BATCH_SIZE[name.task], job.epochs)
    moved = [
        np.abs(variable.numpy() - weight).max()
        for variable, weight in zip(model.trainable_variables, trunk.weights, strict=True)
    ]
    assert min(moved) > 0


class Starts(tf.keras.callbacks.Callback):
    """Notes by which step, counted from the begin of the whole training, the index has started."""

    def __init__(self) -> None:
        super().__init__()
        self.first = None

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        quantizer = find_quantizer(self.model)
        if self.first is None and quantizer.is_started.numpy():
            self.first = int(self.model.optimizer.iterations)


def test_a_joint_branch_starts_its_index_where_the_workflow_does(
    job: tuple[TrialName, jobs.Job], trunk: Trunk
) -> None:
    name, job = job
    variant = variant_of("ours-8")
    firsts = []
    for parent in (None, trunk):
        starts = Starts()
        watched = replace(job, train=watching(job.train, starts), settle=None)
        trial = towers.run_job(watched, replace(name, variant="ours-8"), parent)
        assert trial.index.n_items == len(job.items)
        firsts.append(starts.first)
    steps = n_steps(job.n_pairs, BATCH_SIZE[name.task], job.epochs)
    warmup = job.new_quantizer(**variant.training_options).warmup
    assert firsts == [1 + int(warmup * steps)] * 2
    assert firsts[0] > trunk.steps


def watching(train: Any, callback: tf.keras.callbacks.Callback) -> Any:
    def watched(model: Any, callbacks: Any = (), **how: Any) -> None:
        train(model, callbacks=[*callbacks, callback], **how)

    return watched


def test_the_sample_at_a_branch_is_of_the_trunks_vectors(
    job: tuple[TrialName, jobs.Job], trunk: Trunk
) -> None:
    _, job = job
    model = towers.new_model(job, TINY, seed=0)
    towers.branch_off(model, trunk, job, seed=0)
    quantizer = find_quantizer(model)
    assert (quantizer.step, quantizer.n_sampled) == (trunk.steps, trunk.epochs * job.n_pairs)
    _, vectors = item_vectors(model, job.items, id_column=job.item_id)
    rows = nearest_rows(vectors, quantizer.sample.numpy())
    counts = np.bincount(rows, minlength=len(vectors))
    popular = job.item_frequencies > np.quantile(job.item_frequencies, 0.8)
    assert counts[popular].mean() > 1.2 * counts.mean()


def test_a_branch_has_seen_the_queries(job: tuple[TrialName, jobs.Job], trunk: Trunk) -> None:
    _, job = job
    variant = replace(TINY, options={**TINY.options, "stretch": 0.5})
    model = towers.new_model(job, variant, seed=0)
    towers.branch_off(model, trunk, job, seed=0)
    queries = query_vectors(model, job.train_queries)[1]
    moments = find_quantizer(model).query_moments.numpy()
    np.testing.assert_allclose(moments, queries.T @ queries, rtol=1e-3, atol=1e-3)


def nearest_rows(vectors: Any, sample: Any) -> Any:
    """Of each of ``sample`` the row in ``vectors`` that it is."""
    distances = (vectors**2).sum(axis=1) - 2 * sample @ vectors.T
    rows = distances.argmin(axis=1)
    np.testing.assert_allclose(vectors[rows], sample, atol=1e-5)
    return rows


def test_weights_go_by_the_names_of_their_layers(
    job: tuple[TrialName, jobs.Job], trunk: Trunk
) -> None:
    name, _ = job
    tables = {"gowalla": 2, "movielens-1m": 8, "tutorial": 2, "aliccp": 16}[name.task]
    assert len(set(trunk.names[:tables])) == tables


def test_a_trunk_of_another_model_is_refused(job: tuple[TrialName, jobs.Job], trunk: Trunk) -> None:
    _, job = job
    renamed = replace(trunk, names=[*trunk.names[:-1], "another"])
    with pytest.raises(ValueError, match=r"model: expected the trunk's layers .*another"):
        towers.branch_off(job.plain_model(), renamed, job, seed=0)
    reshaped = replace(trunk, weights=[*trunk.weights[:-1], np.zeros(3)])
    with pytest.raises(ValueError, match="model: expected variables of the trunk's shapes"):
        towers.branch_off(job.plain_model(), reshaped, job, seed=0)


def test_a_trunk_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a whole trunk with"):
        Trunk.load(tmp_path)
