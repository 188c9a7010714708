"""Training by several processes of Horovod: one quantizer for all, and one that saves."""

from __future__ import annotations

from importlib import import_module

import tensorflow as tf
from merlin.models.tf.distributed import backend

from merlin_poeem.blocks.model.towers import find_quantizer

INTERVAL = 25


def n_processes() -> int:
    """How many train one model together."""
    return int(backend.hvd.size()) if backend.hvd_installed else 1


def is_first() -> bool:
    """Whether this process is the one that saves."""
    return n_processes() == 1 or backend.hvd.rank() == 0


class SameOnAllRanks(tf.keras.callbacks.Callback):
    """Gives all processes the quantizer of the first, every ``INTERVAL`` batches and at the end.

    Horovod averages gradients, and the quantizer's state has none: centroids and codebook follow
    the vectors that their own process sees, so that each would pull the towers to an index of its
    own. With one process it does nothing.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """By the number of the batch, which is the same on all: they wait here for each other."""
        if batch % INTERVAL == 0:
            self._share()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Before anything is exported."""
        self._share()

    def _share(self) -> None:
        if n_processes() > 1:
            variables = find_quantizer(self.model).variables
            import_module("horovod.tensorflow").broadcast_variables(variables, root_rank=0)
