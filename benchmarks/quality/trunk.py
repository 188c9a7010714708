"""The trunk: plain towers, trained once up to where an index starts, from where variants branch.

Until its start a quantizer passes the vectors as they are, so that the towers with one and without
are the same until then. A branch goes on with their weights and the optimizer's state.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.quality.trial import TrialName, write_json
from merlin_poeem.arrays import Float32, Int64, normalize
from merlin_poeem.atomic_files import replacing_file
from merlin_poeem.blocks import IVFPQQuantizer

FACTS = "trunk.json"
ARRAYS = "trunk.npz"
Variables = list[tf.Variable]


@dataclass(frozen=True, eq=False)
class Trunk:
    """Towers in the middle of their training."""

    epochs: int
    """Done; whole ones."""
    weights: list[NDArray[Any]]
    """Of the trainable variables, in the model's order."""
    names: list[str]
    """Of the layers that hold them, without the numbers that Keras gives."""
    optimizer: list[NDArray[Any]]
    """The state of the optimizer, in its own order; the steps done come first."""
    facts: dict[str, Any]
    """JSON values: the ``recipe``, and ``seconds`` of the training."""

    @classmethod
    def of(cls, model: tf.keras.Model, epochs: int, facts: dict[str, Any]) -> Trunk:
        """What ``model`` has learned in ``epochs``."""
        return cls(
            epochs,
            [variable.numpy() for variable in model.trainable_variables],
            _names(model),
            [variable.numpy() for variable in model.optimizer.variables],
            facts,
        )

    @property
    def steps(self) -> int:
        """Training steps done."""
        return int(self.optimizer[0])

    def save(self, folder: Path) -> None:
        """Write ``trunk.npz``, then ``trunk.json``: where that is, the trunk is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"weight_{i}": array for i, array in enumerate(self.weights)}
        arrays |= {f"optimizer_{i}": array for i, array in enumerate(self.optimizer)}
        with replacing_file(folder / ARRAYS) as file:
            np.savez(file, **arrays)
        write_json(folder / FACTS, {"epochs": self.epochs, "names": self.names, **self.facts})

    @classmethod
    def load(cls, folder: Path) -> Trunk:
        """The inverse of :meth:`save`; ``FileNotFoundError`` where the trunk is not whole."""
        facts = read_trunk_facts(folder)
        if facts is None:
            raise FileNotFoundError(f"{folder}: expected a whole trunk with {FACTS}, got none")
        with np.load(folder / ARRAYS) as arrays:
            n_weights = len(facts["names"])
            weights = [arrays[f"weight_{i}"] for i in range(n_weights)]
            optimizer = [arrays[f"optimizer_{i}"] for i in range(len(arrays) - n_weights)]
        return cls(facts.pop("epochs"), weights, facts.pop("names"), optimizer, facts)

    def give_weights(self, model: tf.keras.Model) -> None:
        """Give a built ``model`` the towers' weights; ``ValueError`` where it has others."""
        names = _names(model)
        if names != self.names:
            raise ValueError(f"model: expected the trunk's layers {self.names}, got {names}")
        _assign(model.trainable_variables, self.weights, "model")

    def give_steps(
        self,
        quantizer: IVFPQQuantizer,
        item_vectors: Float32,
        frequencies: Int64,
        n_pairs: int,
        seed: int,
    ) -> None:
        """Let a built ``quantizer`` be as if it had passed the trunk's vectors itself.

        It has counted the steps, and its sample is of the vectors that the last batches brought:
        (n_items, dim) ``item_vectors`` as often as items occur, (n_items,) ``frequencies``;
        ``n_pairs`` are those of an epoch.
        """
        n_seen = self.epochs * n_pairs
        n_kept = min(n_seen, quantizer.sample_size)
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(frequencies), n_kept, p=frequencies / frequencies.sum())
        vectors = item_vectors[rows]
        if quantizer.params.metric == "cosine":
            vectors = normalize(vectors)
        sample = np.zeros(quantizer.sample.shape, np.float32)
        sample[:n_kept] = vectors
        quantizer.sample.assign(sample)
        quantizer.n_sampled.assign(n_seen)
        quantizer.step.assign(self.steps)


class GiveOptimizer(tf.keras.callbacks.Callback):
    """Gives a compiled model the trunk's optimizer before its first step."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """A branch begins."""
        optimizer = self.model.optimizer
        optimizer.build(self.model.trainable_variables)
        _assign(optimizer.variables, self.trunk.optimizer, "optimizer")


class StopAfter(tf.keras.callbacks.Callback):
    """Ends a training after ``epochs`` whole ones."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """An epoch, counted from 0, is over."""
        if epoch + 1 >= self.epochs:
            self.model.stop_training = True


def trunk_folder(name: TrialName, results: Path) -> Path:
    """Where the trunk of a trial is; the variants of a task, part and seed share one."""
    return results / "trunks" / name.part / name.task / str(name.seed)


def read_trunk_facts(folder: Path) -> dict[str, Any] | None:
    """``trunk.json``; None where the trunk is not whole."""
    path = folder / FACTS
    return json.loads(path.read_text()) if path.is_file() else None


def _names(model: tf.keras.Model) -> list[str]:
    """Layers are numbered as they are made, which is another number in another process."""
    # Not its submodules: Keras' state of a compiled model cannot always be walked through. Not
    # `trainable_weights`: those are of a layer's layers too.
    holders = {
        id(weight): layer.name
        for layer in model._flatten_layers()
        for weight in layer._trainable_weights
    }
    return [re.sub(r"_\d+$", "", holders[id(weight)]) for weight in model.trainable_variables]


def _assign(variables: Variables, values: list[NDArray[Any]], what: str) -> None:
    expected = [value.shape for value in values]
    got = [tuple(variable.shape) for variable in variables]
    if got != expected:
        raise ValueError(f"{what}: expected variables of the trunk's shapes {expected}, got {got}")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
