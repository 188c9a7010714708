"""IndexStart: tells a quantizer how long the training is, so that its index starts late in it."""

from __future__ import annotations

from typing import Any

import merlin.models.tf as mm
import tensorflow as tf

from merlin_poeem.blocks.model.towers import find_quantizer


class IndexStart(tf.keras.callbacks.Callback):
    """Plans the start of the index at the quantizer's share of the training, ``warmup``.

    The training is what the quantizer has seen before and what ``fit`` is going to do: where it is
    cut off and goes on with ``initial_epoch``, the start is where it would have been. Where it may
    stop early (``EarlyStopping``), it may stop before the start: give the quantizer a number of
    steps as ``warmup`` then.

    The models of ``QuantizedTwoTowerModel`` and its V2 bring it along. A model whose item tower got
    its quantizer by Merlin's own ``connect`` has it among the ``callbacks`` of ``fit``.
    """

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """A training begins."""
        self._is_planned = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Before the first epoch, which need not be number 0, plan the start.

        ``ValueError`` where Keras does not know how many steps an epoch has.
        """
        if self._is_planned:
            return
        self._is_planned = True
        steps = self.params.get("steps")
        find_quantizer(self.model).plan_start(
            None if steps is None else steps * (self.params["epochs"] - epoch)
        )


class _StartsIndex(tf.keras.Model):
    """A model's ``fit`` with an ``IndexStart``."""

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> tf.keras.callbacks.History:
        """As Merlin's, whose first arguments these are."""
        callbacks = [IndexStart(), *tf.nest.flatten([] if callbacks is None else callbacks)]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class QuantizedRetrievalModel(_StartsIndex, mm.RetrievalModel):
    """What ``QuantizedTwoTowerModel`` returns."""

    @classmethod
    def of(cls, model: mm.RetrievalModel) -> QuantizedRetrievalModel:
        """A model of the blocks of ``model``, in its place, by its name."""
        return cls(*model.blocks, name=model.name)


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class QuantizedRetrievalModelV2(_StartsIndex, mm.RetrievalModelV2):
    """What ``QuantizedTwoTowerModelV2`` returns."""

    @classmethod
    def of(cls, model: mm.RetrievalModelV2) -> QuantizedRetrievalModelV2:
        """A model of the encoder and output of ``model``, in its place, by its name."""
        return cls(query=model.encoder, output=model.last, schema=model.schema, name=model.name)
