"""LengthByPopularity: item vectors are longer the more popular the item is."""

from __future__ import annotations

from typing import Any

import merlin.models.tf as mm
import tensorflow as tf


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class LengthByPopularity(mm.Block):
    """An item tower whose directions are those of ``tower`` and whose lengths are given.

    The length is 1 + ``rate`` · ``column``. The direction of an item that few have visited is
    little known: where all vectors are of one length, such items crowd out well-known ones. Lengths
    that training is free to choose grow with popularity too, and learn the training pairs by heart.

    The model scores by the inner product: the quantizer has that metric, and the query tower
    ends in ``L2Norm``.
    """

    def __init__(
        self,
        tower: tf.keras.layers.Layer,
        column: str = "item_popularity",
        rate: float = 0.08,
        **kwargs: Any,
    ) -> None:
        """
        Parameters
        ----------
        tower
            Takes the item features without ``column``, embedded, and returns (batch, dim) float32
            of any length.
        column
            A continuous item feature, (batch,) or (batch, 1): the logarithm of the item's training
            interactions, less the mean of that over the catalog.
        rate
            How much longer a vector is for each e-fold of interactions. ``rate`` · ``column`` must
            be above −1 for all items.

        Raises
        ------
        ValueError
            A ``rate`` that is not a number from 0 to below 1. In the call, inputs without
            ``column``.
        tf.errors.InvalidArgumentError
            In the call: a length that is not above 0, or not finite.
        """
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate: expected 0 <= rate < 1, got {rate}")
        self.tower, self.column, self.rate = tower, column, float(rate)

    def call(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """(batch, dim) float32 of the item features, by name."""
        if self.column not in inputs:
            raise ValueError(
                f"{self.name}: expected the continuous item feature {self.column!r}, "
                f"got {sorted(inputs)}"
            )
        length = 1 + self.rate * tf.reshape(tf.cast(inputs[self.column], tf.float32), [-1, 1])
        # Finite too: NaN and infinity are not below the largest number.
        is_length = tf.logical_and(length > 0, length < length.dtype.max)
        message = f"{self.name}: expected finite {self.column} above {-1 / max(self.rate, 1e-9):g}"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_length), [message])]):
            # Under mixed precision, towers end in half precision.
            directions = tf.cast(self.tower(self._others(inputs)), tf.float32)
            return tf.math.l2_normalize(directions, 1) * length

    def compute_output_shape(self, input_shape: dict[str, tf.TensorShape]) -> tf.TensorShape:
        """The tower's."""
        return self.tower.compute_output_shape(self._others(input_shape))

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs to make the block again."""
        tower = tf.keras.layers.serialize(self.tower)
        return {**super().get_config(), "tower": tower, "column": self.column, "rate": self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LengthByPopularity:
        """The block of a saved configuration."""
        return cls(**{**config, "tower": tf.keras.layers.deserialize(config["tower"])})

    def _others(self, named: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in named.items() if name != self.column}
