"""Gowalla: train two towers of users and places jointly with their index, export, search, compare.

The visits are those that the LightGCN authors published; users and places are known by number.

    python -m workflows.gowalla --data FOLDER
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import tensorflow as tf

from merlin_poeem import save_index
from merlin_poeem.blocks import export_index, item_vectors, query_vectors
from workflows.comparison import OURS, Comparison
from workflows.gowalla.data import read
from workflows.gowalla.towers import (
    BATCH_SIZE,
    DEFAULT_PROBES,
    EPOCHS,
    N_PROBES,
    K,
    Task,
    joint_model,
    new_quantizer,
    settle,
    train,
)
from workflows.results import show_and_save
from workflows.training import n_steps


def run(
    task: Task, *, seed: int, epochs: int, batch_size: int = BATCH_SIZE, results: Path
) -> Comparison:
    """Train, export, compare, save; returns the rows of the table."""
    tf.keras.utils.set_random_seed(seed)
    steps = n_steps(len(task.training_pairs), batch_size, epochs)
    print(f"Training the towers jointly with their index, {steps} steps.")
    model = joint_model(task, new_quantizer(seed=seed))
    train(model, task, batch_size=batch_size, epochs=epochs)
    settle(model, task)
    start = time.perf_counter()
    index = export_index(model, task.items, n_probes=DEFAULT_PROBES, info={"seed": seed})
    seconds = time.perf_counter() - start
    _, queries = query_vectors(model, task.judged.users)
    judged = task.judged
    comparison = Comparison(queries, K, N_PROBES, judged.quality, seed, judged.seen)
    comparison.add_baselines(index.params, *item_vectors(model, task.items))
    comparison.add_index(OURS, index, seconds)
    save_index(index, results / "gowalla.index")
    return comparison


def main(arguments: list[str] | None = None) -> None:
    """Run the demo from the command line."""
    description = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser("python -m workflows.gowalla", description=description)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of train.txt.gz and test.txt.gz"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    try:
        check_ins = read(options.data)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    options.results.mkdir(parents=True, exist_ok=True)
    comparison = run(
        Task.of(check_ins, options.seed),
        seed=options.seed,
        epochs=options.epochs,
        results=options.results,
    )
    print()
    saved = options.results / "demo_gowalla"
    show_and_save(comparison, "recall_at_20", "Gowalla: 40,981 places", saved)


if __name__ == "__main__":
    main()
