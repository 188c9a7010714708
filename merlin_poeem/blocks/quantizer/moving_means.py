"""Centroids that follow the vectors assigned to them, as means over the latest, not by gradient.

The optimizer and its learning rate then have no say in how well the quantizer tracks the towers.
"""

from __future__ import annotations

import tensorflow as tf


def follow(
    means: tf.Tensor, counts: tf.Tensor, vectors: tf.Tensor, assigned: tf.Tensor, keep: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Means (k, width) and counts (k,) after (n, width) vectors came to cells ``assigned`` (n,).

    Exponential moving averages (van den Oord et al., NeurIPS 2017, appendix A.1): what came before
    counts ``keep`` as much with every call. A cell to which nothing comes keeps its mean.
    """
    n_cells = means.shape[0]
    arrived = tf.math.unsorted_segment_sum(tf.ones_like(vectors[:, 0]), assigned, n_cells)
    total = tf.math.unsorted_segment_sum(vectors, assigned, n_cells)
    counts = keep * counts + arrived
    moves = (total - arrived[:, None] * means) / tf.maximum(counts, 1.0)[:, None]
    return means + moves, counts
