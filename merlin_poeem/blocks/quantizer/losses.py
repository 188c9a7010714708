"""The losses over lists: even use of all, and items in the lists that their queries visit.

Vectors are in the rotated space.
"""

from __future__ import annotations

import tensorflow as tf

from merlin_poeem.blocks.quantizer.coarse import list_distances


def soft_lists(vectors: tf.Tensor, centroids: tf.Tensor, sharpness: float) -> tf.Tensor:
    """(n, n_lists) logarithm of a soft assignment: softmax(−sharpness · ‖x − c‖² / mean ‖x‖²).

    Differentiable in the vectors; the mean makes it indifferent to the scale of the space.
    """
    scale = tf.reduce_mean(tf.reduce_sum(tf.stop_gradient(vectors) ** 2, axis=1))
    return tf.nn.log_softmax(-sharpness * list_distances(vectors, centroids) / (scale + 1e-9))


def soft_probes(queries: tf.Tensor, probed: tf.Tensor, sharpness: float) -> tf.Tensor:
    """(n, n_lists) logarithm of a soft choice of the list to visit: softmax(sharpness · ⟨q, p⟩).

    Of (n, dim) queries, which are normalised here: their length moves no list before another.
    ``probed`` (n_lists, dim) is what a search scores lists by: see :meth:`.Joint.probed`.
    """
    scores = tf.matmul(tf.math.l2_normalize(queries, 1), probed, transpose_b=True)
    return tf.nn.log_softmax(sharpness * scores)


def disagreement(lists: tf.Tensor, probes: tf.Tensor) -> tf.Tensor:
    """How seldom an item is in the list that its query visits: −log Σ_l p(l | q) p(l | x), a mean.

    ``lists`` (n, n_lists) are those of n items by :func:`soft_lists`, ``probes`` those of their
    queries by :func:`soft_probes`.
    """
    return tf.reduce_mean(-tf.reduce_logsumexp(lists + probes, axis=1))


def imbalance(lists: tf.Tensor) -> tf.Tensor:
    """KL divergence of a batch's mean assignment from even use of all lists; 0 if even.

    ``lists`` is (n, n_lists), by :func:`soft_lists`.
    """
    n_lists = tf.cast(tf.shape(lists)[1], lists.dtype)
    use = tf.reduce_mean(tf.exp(lists), axis=0)
    return tf.reduce_sum(use * tf.math.log(use * n_lists + 1e-9))
