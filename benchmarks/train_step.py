"""What the quantizer costs in training: seconds a step, joint phase against the plain model.

    python -m benchmarks.train_step [--batch-size 4096] [--rounds 8] [--steps 20]

The two models take turns on the same batches of the Poeem tutorial's task, so that a noisy machine
disturbs both alike; the ratio is of the medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem.blocks import IVFPQQuantizer, find_quantizer
from workflows.comparison import versions
from workflows.poeem_tutorial import (
    N_LISTS,
    PQ_DIM,
    compile_model,
    joint_model,
    make_pairs,
    plain_model,
    schema,
)


def seconds_per_step(model: tf.keras.Model, data: Dataset, batch_size: int, steps: int) -> float:
    """Seconds a step of ``model.fit``, what happens between epochs left out."""
    timer = _StepTimer()
    model.fit(data, batch_size=batch_size, steps_per_epoch=steps, verbose=0, callbacks=[timer])
    return float(np.median(timer.seconds))


class _StepTimer(tf.keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    batch_size, steps = arguments.batch_size, arguments.steps
    data = Dataset(make_pairs(0, batch_size * steps), schema=schema())
    joint = joint_model(IVFPQQuantizer(N_LISTS, PQ_DIM, metric="cosine", warmup=0))
    models = {"plain": plain_model(), "joint": joint}
    for model in models.values():
        compile_model(model, batch_size)
        seconds_per_step(model, data, batch_size, steps)
    if not find_quantizer(joint).is_started.numpy():
        raise SystemExit("the quantizer has not started: raise --steps")
    rounds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name, model in models.items():
            rounds[name].append(seconds_per_step(model, data, batch_size, steps))
    medians = {name: float(np.median(values)) for name, values in rounds.items()}
    ratio = medians["joint"] / medians["plain"]
    for name, seconds in medians.items():
        print(f"{name:6} {1000 * seconds:8.2f} ms a step")
    print(f"ratio  {ratio:8.3f} at batch {batch_size}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    row = {"batch": batch_size, "seconds_plain": medians["plain"], "ratio": ratio}
    path = arguments.results / "train_step.json"
    path.write_text(json.dumps({"rows": [row], "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
