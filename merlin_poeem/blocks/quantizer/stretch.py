"""The space of the cells stretched along what queries look along, in a layer's variables.

:func:`merlin_poeem.quantization.stretch.stretch` is the definition; here the queries come batch by
batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from merlin_poeem.quantization.stretch import SMALLEST_MOMENT

# Of what came before a batch: a thousand batches are remembered.
KEEP = 0.999
NOT_FINITE = (
    "stretch: expected query vectors with finite squares, got others: look for NaN and infinity in "
    "the features of users and the query tower, or lower the learning rate"
)


@dataclass(frozen=True, eq=False)
class Stretch:
    """What queries look along, and the space that was made of it."""

    amount: float
    """As of the layer."""

    query_moments: tf.Variable
    """(dim, dim) float32: of the latest queries, the sum of q qᵀ."""

    of_items: tf.Variable
    """(dim, dim) float32, symmetric: the identity until :meth:`settle`."""

    of_queries: tf.Variable
    """(dim, dim) float32: its inverse."""

    def see(self, queries: tf.Tensor) -> None:
        """Take (batch, dim) queries into account, raw space."""
        moments = tf.matmul(queries, queries, transpose_a=True)
        self.query_moments.assign(KEEP * self.query_moments + moments)

    def saw_queries(self) -> tf.Tensor:
        """() bool: whether any came that were not all zeros."""
        return tf.reduce_any(self.query_moments != 0)

    def settle(self) -> None:
        """Make the space from the queries that were seen, of which there have to be some.

        ``InvalidArgumentError`` where their squares are not finite.
        """
        moments = self.query_moments.read_value()
        largest = tf.reduce_max(tf.abs(moments))
        with tf.control_dependencies([tf.debugging.Assert(largest < np.inf, [NOT_FINITE])]):
            found, directions = tf.linalg.eigh(moments / largest)
        found = tf.maximum(found, SMALLEST_MOMENT * tf.reduce_mean(found))
        widths = found ** (self.amount / 2)
        widths /= tf.sqrt(tf.reduce_mean(widths**2))
        self.of_items.assign(tf.matmul(directions * widths, directions, transpose_b=True))
        self.of_queries.assign(tf.matmul(directions / widths, directions, transpose_b=True))

    def is_identity(self) -> bool:
        """Whether the space is as it was: before the start, or where no queries were seen."""
        return bool((self.of_items.numpy() == np.eye(self.of_items.shape[0])).all())
