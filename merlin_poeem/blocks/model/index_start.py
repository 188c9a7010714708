"""IndexStart: tells a quantizer how long the training is, so that its index starts late in it."""

from __future__ import annotations

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
