"""Train one model and keep it as a trial; needs TensorFlow.

A process of its own for each (``benchmarks.quality.training`` starts it): no model inherits another
one's memory, seeds or graph.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import tensorflow as tf

from benchmarks.quality.relevance import Relevance
from benchmarks.quality.trial import Trial, TrialName, save_trial
from benchmarks.quality.variants import VARIANTS
from merlin_poeem import IdLists
from merlin_poeem.blocks import IVFPQQuantizer, export_index, item_vectors, query_vectors
from workflows import poeem_tutorial
from workflows.comparison import versions
from workflows.gowalla import data as gowalla_data
from workflows.gowalla import towers as gowalla
from workflows.judged import Judged
from workflows.movielens import data as movielens_data
from workflows.movielens import towers as movielens
from workflows.movielens.features import make_features

WORKFLOWS = {
    "tutorial": poeem_tutorial,
    "movielens-1m": movielens,
    "gowalla": gowalla,
}
QUICK_PAIRS = 100_000
QUICK_SHARE = 8
Model = tf.keras.Model
Split = TypeVar("Split", movielens_data.MovieLens, gowalla_data.CheckIns)


@dataclass(frozen=True)
class Job:
    """What there is to train on, and how the task's own workflow does it."""

    n_lists: int
    new_quantizer: Callable[..., Any]
    """(pq_dim, pq_bits, seed, options of the quantizer) → the quantizer."""
    joint_model: Callable[[Any], Model]
    plain_model: Callable[[], Model]
    train: Callable[[Model], Any]
    settle: Callable[[Model], None] | None
    """What the workflow does to a joint model between training and export, if anything."""
    queries: pd.DataFrame
    items: pd.DataFrame
    relevance: Relevance
    exclude: IdLists | None = None
    item_id: str | None = None
    """The column of the ids to export; None is the one tagged so."""


def recipe(name: TrialName) -> dict[str, Any]:
    """All that a trial's training is told, but its data: by this a trial is known again.

    What the variant says, what the quantizer does where nothing is said, and the workflow's
    constants: a trial of other defaults is another trial.
    """
    variant = VARIANTS[name.variant]
    defaults = {} if variant.pq_dim is None else IVFPQQuantizer(1, 1).get_config()
    constants = {
        constant: value
        for constant, value in vars(WORKFLOWS[name.task]).items()
        if constant.isupper() and isinstance(value, int | float)
    }
    return {"quantizer": {**defaults, **variant.training_options}, "workflow": constants}


def run_job(job: Job, name: TrialName) -> Trial:
    """Train, and take from the model what judging needs."""
    variant = VARIANTS[name.variant]
    tf.keras.utils.set_random_seed(name.seed)
    start = time.perf_counter()
    if variant.pq_dim is None:
        model = job.plain_model()
    else:
        model = job.joint_model(job.new_quantizer(seed=name.seed, **variant.training_options))
    job.train(model)
    if variant.pq_dim is not None and job.settle is not None:
        job.settle(model)
    seconds = time.perf_counter() - start
    index = None
    start = time.perf_counter()
    if variant.pq_dim is not None:
        index = export_index(model, job.items, id_column=job.item_id, n_probes=1)
    export_seconds = time.perf_counter() - start
    return Trial(
        name,
        query_vectors(model, job.queries)[1],
        *item_vectors(model, job.items, id_column=job.item_id),
        job.relevance,
        job.exclude,
        index,
        {
            "n_lists": job.n_lists,
            "recipe": recipe(name),
            "seconds": seconds,
            "export_seconds": export_seconds,
            "versions": versions(),
        },
    )


def tutorial_job(seed: int, n_pairs: int, epochs: int = poeem_tutorial.EPOCHS) -> Job:
    """The Poeem tutorial's; a query's last two digits say what is right."""
    task = poeem_tutorial
    pairs = task.make_pairs(seed, n_pairs)
    lists = IdLists.from_rows([row.nonzero()[0] for row in task.matches()])
    return Job(
        task.N_LISTS,
        task.new_quantizer,
        task.joint_model,
        task.plain_model,
        lambda model: task.train(model, pairs, batch_size=task.BATCH_SIZE, epochs=epochs),
        None,
        task.QUERIES,
        task.ITEMS,
        Relevance(lists, task.QUERIES["query"].to_numpy() % 100),
    )


def movielens_job(data: movielens_data.MovieLens) -> Job:
    """MovieLens' films for the users with test ratings, without those that they have rated."""
    task = movielens
    features = make_features(data)
    judged = Judged.of(features.users, data.train, data.test, task.K)
    how = {"batch_size": task.BATCH_SIZE, "epochs": task.EPOCHS}
    return Job(
        task.N_LISTS,
        task.new_quantizer,
        lambda quantizer: task.joint_model(features, quantizer),
        lambda: task.plain_model(features),
        lambda model: task.train(model, features, **how),
        lambda model: task.settle(model, features),
        judged.users,
        features.items,
        Relevance.of_each(judged.relevant),
        judged.seen,
        "item_id",
    )


def gowalla_job(check_ins: gowalla_data.CheckIns, seed: int) -> Job:
    """Gowalla's places for the users with test visits, without those that they know."""
    task = gowalla.Task.of(check_ins, seed)
    return Job(
        gowalla.N_LISTS,
        gowalla.new_quantizer,
        lambda quantizer: gowalla.joint_model(task, quantizer),
        lambda: gowalla.plain_model(task),
        lambda model: gowalla.train(model, task),
        lambda model: gowalla.settle(model, task),
        task.judged.users,
        task.items,
        Relevance.of_each(task.judged.relevant),
        task.judged.seen,
    )


def make_job(name: TrialName, data: Path | None, quick: bool) -> Job:
    """The job of a task; ``data`` is the folder of its files."""
    if name.task == "tutorial":
        return tutorial_job(name.seed, QUICK_PAIRS if quick else poeem_tutorial.PAIRS)
    if data is None:
        raise ValueError(f"data: expected the folder of {name.task}, got none")
    if name.task == "movielens-1m":
        films = movielens_data.read(data, "1m", name.seed)
        return movielens_job(_some_users(films) if quick else films)
    if name.task == "gowalla":
        check_ins = gowalla_data.read(data)
        return gowalla_job(_some_users(check_ins) if quick else check_ins, name.seed)
    raise ValueError(f"task: expected tutorial, movielens-1m or gowalla, got {name.task!r}")


def _some_users(data: Split) -> Split:
    """The training and test pairs of one user in eight."""
    parts = {
        part: pairs[pairs["user_id"] % QUICK_SHARE == 0].reset_index(drop=True)
        for part, pairs in (("train", data.train), ("test", data.test))
    }
    return replace(data, **parts)


def main(arguments: list[str] | None = None) -> None:
    """One trial, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", required=True)
    parser.add_argument("--variant", required=True, choices=VARIANTS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--data", type=Path, help="the folder of the task's files")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    name = TrialName(options.task, options.variant, options.seed)
    job = make_job(name, options.data, options.quick)
    save_trial(run_job(job, name), options.results)


if __name__ == "__main__":
    main()
