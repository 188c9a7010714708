"""The coarse quantizer: which list an item belongs to. Vectors are in the rotated space."""

from __future__ import annotations

import tensorflow as tf


def nearest_lists(vectors: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
    """(n,) int64: the nearest of (n_lists, dim) centroids to each of (n, dim) vectors."""
    return tf.argmin(list_distances(vectors, centroids), axis=1)


def list_distances(vectors: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
    """(n, n_lists): ‖x − c‖² less ‖x‖², which is the same for every list."""
    norms = tf.reduce_sum(centroids**2, axis=1)
    return norms - 2.0 * tf.matmul(vectors, centroids, transpose_b=True)
