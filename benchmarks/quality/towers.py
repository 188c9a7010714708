"""Train one model and keep it as a trial, or the trunk of several; needs TensorFlow.

A process of its own for each (``benchmarks.quality.training`` starts it): no model inherits another
one's memory, seeds or graph.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import merlin.models.tf as mm
import pandas as pd
import tensorflow as tf

from benchmarks.quality.jobs import WORKFLOWS, Job, make_job
from benchmarks.quality.parts import PARTS, TEST
from benchmarks.quality.permit import Permit
from benchmarks.quality.trial import Trial, TrialName, save_trial
from benchmarks.quality.trunk import (
    GiveOptimizer,
    StopAfter,
    Trunk,
    trunk_folder,
)
from benchmarks.quality.variants import Variant, variant_of
from merlin_poeem.blocks import IVFPQQuantizer, export_index, item_vectors, query_vectors
from merlin_poeem.blocks.model.towers import Towers
from workflows.comparison import versions

TRUNK = "trunk"
# What a variant may not be told: its name says the first two, the workflow and the trial the rest.
FIXED = {"pq_dim", "pq_bits", "n_lists", "metric", "seed", "name", "trainable"}


def recipe(name: TrialName) -> dict[str, Any]:
    """All that a trial's training is told, but its data: by this a trial is known again.

    What the variant says, what the quantizer does where nothing is said, the workflow's constants,
    and after how many epochs it leaves the trunk: a trial of other defaults is another trial.
    ``ValueError`` for options that the quantizer does not have.
    """
    variant = variant_of(name.variant)
    quantizer = {} if variant.pq_dim is None else IVFPQQuantizer(1, 1).get_config()
    unknown = sorted({*variant.options} - ({*quantizer} - FIXED))
    if unknown:
        raise ValueError(
            f"variant: expected options among {', '.join(sorted({*quantizer} - FIXED))}; "
            f"got {', '.join(unknown)}"
        )
    return {
        "quantizer": {**quantizer, **variant.training_options},
        "workflow": workflow_constants(name.task),
        "trunk": {"epochs": trunk_epochs(name.task) if branches(variant, name.task) else 0},
    }


def trunk_recipe(name: TrialName) -> dict[str, Any]:
    """The same of the trunk that a trial leaves."""
    return {
        "workflow": workflow_constants(name.task),
        "trunk": {"epochs": trunk_epochs(name.task)},
    }


def workflow_constants(task: str) -> dict[str, Any]:
    """The numbers that a task's workflow is written with."""
    return {
        constant: value
        for constant, value in vars(WORKFLOWS[task]).items()
        if constant.isupper() and isinstance(value, int | float)
    }


def trunk_epochs(task: str) -> int:
    """Whole epochs before the workflow's own index starts."""
    workflow = WORKFLOWS[task]
    return int(workflow.new_quantizer().warmup * workflow.EPOCHS)


def branches(variant: Variant, task: str) -> bool:
    """Whether a variant's index starts no earlier than the trunk ends; if not, it trains whole.

    ``ValueError`` where it starts after a number of steps: a share of the training is wanted.
    """
    warmup = variant.options.get("warmup", WORKFLOWS[task].new_quantizer().warmup)
    if not isinstance(warmup, float):
        raise ValueError(f"warmup: expected a share of the training, such as 0.5, got {warmup}")
    return int(warmup * WORKFLOWS[task].EPOCHS) >= trunk_epochs(task)


def train_trunk(job: Job, name: TrialName) -> Trunk:
    """The plain towers up to the end of the trunk."""
    tf.keras.utils.set_random_seed(name.seed)
    start = time.perf_counter()
    model, epochs = job.plain_model(), trunk_epochs(name.task)
    job.train(model, callbacks=[StopAfter(epochs)])
    seconds = time.perf_counter() - start
    return Trunk.of(model, epochs, {"seconds": seconds, "recipe": trunk_recipe(name)})


def run_job(job: Job, name: TrialName, trunk: Trunk | None) -> Trial:
    """Train, and take from the model what judging needs; without a trunk, train from the start."""
    variant = variant_of(name.variant)
    tf.keras.utils.set_random_seed(name.seed)
    start = time.perf_counter()
    model = new_model(job, variant, name.seed)
    if trunk is None:
        job.train(model)
    else:
        branch_off(model, trunk, job, name.seed)
        job.train(model, initial_epoch=trunk.epochs, callbacks=[GiveOptimizer(trunk)])
    if variant.pq_dim is not None and job.settle is not None:
        job.settle(model)
    seconds = time.perf_counter() - start + (0 if trunk is None else trunk.facts["seconds"])
    index = None
    start = time.perf_counter()
    if variant.pq_dim is not None:
        index = export_index(model, job.items, id_column=job.item_id, n_probes=1)
    export_seconds = time.perf_counter() - start
    item_ids, vectors = item_vectors(model, job.items, id_column=job.item_id)
    return Trial(
        name=name,
        queries=query_vectors(model, job.queries)[1],
        item_ids=item_ids,
        item_vectors=vectors,
        relevance=job.relevance,
        exclude=job.exclude,
        index=index,
        item_frequencies=_by_id(job, item_ids),
        train_queries=query_vectors(model, job.train_queries)[1],
        facts={
            "n_lists": job.n_lists,
            "recipe": recipe(name),
            "seconds": seconds,
            "export_seconds": export_seconds,
            "versions": versions(),
        },
    )


def new_model(job: Job, variant: Variant, seed: int) -> tf.keras.Model:
    """A variant's towers, not yet trained."""
    if variant.pq_dim is None:
        return job.plain_model()
    return job.joint_model(job.new_quantizer(seed=seed, **variant.training_options))


def branch_off(model: tf.keras.Model, trunk: Trunk, job: Job, seed: int) -> None:
    """Put a new model where the trunk ends."""
    model(mm.sample_batch(job.pairs, batch_size=64, include_targets=False))  # builds it
    trunk.give_weights(model)
    both = Towers.of(model)
    if both.has_quantizer:
        _, vectors = item_vectors(model, job.items, id_column=job.item_id)
        trunk.give_steps(both.quantizer, vectors, job.item_frequencies, job.n_pairs, seed)
        both.quantizer.see_queries(query_vectors(model, job.train_queries)[1])


def _by_id(job: Job, item_ids: Any) -> Any:
    """(n_items,) int64 training pairs of each of ``item_ids``."""
    column = job.item_id or job.pairs.schema.select_by_tag("item_id").first.name
    return pd.Series(job.item_frequencies, job.items[column])[item_ids].to_numpy()


def main(arguments: list[str] | None = None) -> None:
    """One trial or trunk, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", required=True)
    parser.add_argument("--variant", required=True, help=f"{TRUNK}: what the others leave from")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--data", type=Path, help="the folder of the task's files")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    name = TrialName(options.task, options.variant, options.seed, options.part)
    permit = Permit.of(options.results) if name.part == TEST else None
    job = make_job(name, options.data, options.quick, permit)
    folder = trunk_folder(name, options.results)
    if name.variant == TRUNK:
        train_trunk(job, name).save(folder)
        return
    trunk = Trunk.load(folder) if branches(variant_of(name.variant), name.task) else None
    save_trial(run_job(job, name, trunk), options.results)


if __name__ == "__main__":
    main()
