"""How two towers learn pairs of a user and an item: the loss, and a rate that falls to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import merlin.models.tf as mm
import tensorflow as tf
from merlin.io import Dataset
from merlin.models.tf.transforms.bias import PopularityLogitsCorrection
from merlin.schema import Schema

from merlin_poeem.arrays import Int64
from merlin_poeem.blocks import Temperature


def retrieval_task(
    schema: Schema, item_frequencies: Int64, temperature: float
) -> mm.ItemRetrievalTask:
    """The loss: which item of the batch is a query's own?

    Negatives are the other items of the batch, where popular ones come up more often: their logits
    are lowered by their log frequency (Yi et al., RecSys 2019). ``item_frequencies`` is
    (vocabulary,) int64, the pairs of each item.
    """
    correction = PopularityLogitsCorrection(item_frequencies, schema=schema)
    return mm.ItemRetrievalTask(schema, post_logits=Temperature(temperature).connect(correction))


def fit(
    model: mm.RetrievalModel,
    pairs: Dataset,
    optimizer: Callable[[tf.keras.optimizers.schedules.LearningRateSchedule], object],
    learning_rate: float,
    *,
    n_pairs: int,
    batch_size: int,
    epochs: int,
    initial_epoch: int = 0,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> None:
    """Train; shows Keras' progress bar. ``optimizer`` takes the rate, as Keras' ``Adam`` does.

    A training that goes on begins with ``initial_epoch``; the rate is that of all ``epochs``.
    """
    rate = tf.keras.optimizers.schedules.CosineDecay(
        learning_rate, n_steps(n_pairs, batch_size, epochs)
    )
    model.compile(optimizer=optimizer(rate), run_eagerly=False, metrics=[])
    model.fit(
        pairs,
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=list(callbacks),
    )


def n_steps(n_pairs: int, batch_size: int, epochs: int) -> int:
    """Training steps in all."""
    return epochs * -(-n_pairs // batch_size)
