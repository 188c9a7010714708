"""Score and item id as one int64 key, whose order is that of the results.

Scores fall, and among equal scores item ids rise: to merge the best of several lists is then one
``top_k`` of keys. A key holds the score's bits above, and below the item's rank among all ids.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from merlin_poeem.blocks.in_graph.signature import CountedTopK
from merlin_poeem.blocks.in_graph.state import GraphState

NO_KEY = tf.int64.min
"""Of no item: below the key of any."""

_LOW_BITS = 2**31 - 1


def keys_of(scores: tf.Tensor, ranks: tf.Tensor) -> tf.Tensor:
    """Int64 that rise with (n, m) scores, and among equal scores fall with the (n, m) ranks."""
    scores = tf.where(tf.equal(scores, 0), 0.0, scores)  # −0 is 0
    high = tf.cast(_ordered(tf.bitcast(scores, tf.int32)), tf.int64) * 2**32
    return high + tf.cast(_LOW_BITS - ranks, tf.int64)


def ranks_of(state: GraphState, keys: tf.Tensor) -> tf.Tensor:
    """Int32, of the items that keys stand for; of ``NO_KEY`` that of no row, the last."""
    ranks = _LOW_BITS - tf.bitwise.bitwise_and(keys, tf.constant(2**32 - 1, tf.int64))
    return tf.where(tf.equal(keys, NO_KEY), state.n_items, tf.cast(ranks, tf.int32))


def results_of(state: GraphState, keys: tf.Tensor) -> CountedTopK:
    """The results that (n_queries, k) keys stand for."""
    is_result = tf.not_equal(keys, NO_KEY)
    high = tf.cast(tf.bitwise.right_shift(keys, tf.constant(32, tf.int64)), tf.int32)
    scores = tf.where(is_result, tf.bitcast(_ordered(high), tf.float32), -np.inf)
    item_ids = tf.gather(state.sorted_ids, ranks_of(state, keys))
    return CountedTopK(scores, item_ids, tf.reduce_sum(tf.cast(is_result, tf.int64), axis=1))


def largest(keys: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """(n, k) of the (n, m) keys, falling, filled up where k is more than m."""
    return filled(tf.math.top_k(keys, tf.minimum(k, tf.shape(keys)[1])).values, k)


def filled(keys: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """(n, k): the keys of (n, at most k), and ``NO_KEY`` after them."""
    missing = k - tf.shape(keys)[1]
    return tf.pad(keys, [[0, 0], [0, missing]], constant_values=NO_KEY)


def _ordered(bits: tf.Tensor) -> tf.Tensor:
    """Bits of float32 as int32 that sort as the floats do; and back again."""
    signs = tf.bitwise.right_shift(bits, tf.constant(31, tf.int32))
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(signs, 2**31 - 1))
