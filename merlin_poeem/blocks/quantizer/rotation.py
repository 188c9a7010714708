"""Rotations of the embedding space, ``x_rot = x @ rotation``, always exactly orthogonal."""

from __future__ import annotations

import tensorflow as tf


def procrustes(vectors: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The orthogonal (dim, dim) R with ``vectors @ R`` nearest to ``targets``; both (n, dim).

    min_R ‖XR − Y‖² has the solution UVᵀ, where USVᵀ = XᵀY (Schönemann, 1966).
    """
    _, u, v = tf.linalg.svd(tf.matmul(vectors, targets, transpose_a=True))
    return tf.matmul(u, v, transpose_b=True)
