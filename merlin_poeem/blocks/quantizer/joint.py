"""The joint phase: what a training step returns and loses, while the cells follow its vectors."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from merlin_poeem.blocks.quantizer import losses
from merlin_poeem.blocks.quantizer.cells import Cells
from merlin_poeem.quantization.params import Metric


@dataclass(frozen=True, eq=False)
class Joint:
    """A quantizer's joint phase; its numbers are those of the layer."""

    cells: Cells
    metric: Metric
    is_stretched: bool
    float_share: float
    commitment: float
    balance: float
    list_sharpness: float

    # No branch here depends on a tensor: AutoGraph would rewrite the source, for seconds, in vain.
    @do_not_convert
    def step(
        self, x: tf.Tensor, *, keep: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Outputs (batch, dim) and the loss () of (batch, dim) vectors, raw space.

        The cells follow them, where what came before counts ``keep`` as much; ``seed`` (2,) chooses
        the rows that pass unquantized.
        """
        x_rot = self.cells.rotate(x)
        fixed = tf.stop_gradient(x_rot)
        list_ids, codes = self.cells.encode(fixed)
        decoded = self.cells.decode(list_ids, codes)
        distortion = tf.reduce_mean(tf.reduce_sum((x_rot - decoded) ** 2, axis=1))
        lists = losses.soft_lists(x_rot, self.cells.coarse_centroids, self.list_sharpness)
        x_hat = self.cells.rotate_back(decoded)
        self.cells.follow(fixed, list_ids, codes, decoded, keep=keep)
        outputs = straight_through(x, x_hat, quantized_rows(x, self.float_share, seed))
        return outputs, self.commitment * distortion + self.balance * losses.imbalance(lists)

    @do_not_convert
    def disagreement(self, queries: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """() float32: how seldom items are in the lists that their queries visit.

        Both are (batch, dim), raw space.
        """
        queries_rot = self.cells.rotate_queries(tf.cast(queries, tf.float32))
        items_rot = self.cells.rotate(tf.cast(items, tf.float32))
        centroids = self.cells.coarse_centroids.read_value()
        return losses.disagreement(
            losses.soft_lists(items_rot, centroids, self.list_sharpness),
            losses.soft_probes(queries_rot, self.probed(), self.list_sharpness),
        )

    def probed(self) -> tf.Tensor:
        """(n_lists, dim): what a search scores lists by, rotated space.

        It is the direction of a list's centroid, by inner product and in a stretched space with the
        mean length of the list's items (see :attr:`Index.list_factors
        <merlin_poeem.Index.list_factors>`), in units of the mean over the lists.
        """
        directions = tf.math.l2_normalize(self.cells.coarse_centroids.read_value(), 1)
        if self.metric == "cosine" and not self.is_stretched:
            return directions
        lengths = self.cells.list_lengths.read_value()
        return directions * (lengths / (tf.reduce_mean(lengths) + 1e-9))[:, None]


def straight_through(x: tf.Tensor, x_hat: tf.Tensor, is_quantized: tf.Tensor) -> tf.Tensor:
    """(batch, dim): ``x_hat`` in the rows where ``is_quantized`` (batch, 1) is 1, ``x`` where 0.

    The gradient goes to ``x`` in all of them, as if nothing had been quantized.
    """
    return x - tf.stop_gradient(is_quantized * (x - x_hat))


def quantized_rows(x: tf.Tensor, float_share: float, seed: tf.Tensor) -> tf.Tensor:
    """(batch, 1) float: 0 for the rows that pass unquantized in this step, 1 for the others."""
    draws = tf.random.stateless_uniform([tf.shape(x)[0], 1], seed=seed)
    return tf.cast(draws >= float_share, x.dtype)
