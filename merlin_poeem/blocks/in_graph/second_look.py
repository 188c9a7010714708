"""The second look in the graph: the best candidates by their codes, scored by stored vectors."""

from __future__ import annotations

import tensorflow as tf

from merlin_poeem.blocks.in_graph.keys import NO_KEY, keys_of, largest, ranks_of
from merlin_poeem.blocks.in_graph.state import GraphState

CANDIDATE_BYTES = 12
"""Of each dimension: as stored, in float32, and what the query makes of it."""


def n_candidates_of(state: GraphState, k: tf.Tensor, refine: tf.Tensor) -> tf.Tensor:
    """() int32: ``k``, or as many times it as are refined, of which more than all are of no use."""
    wanted = tf.cast(k, tf.int64) * tf.cast(refine, tf.int64)
    looked_at = tf.cast(tf.minimum(wanted, tf.cast(state.n_items, tf.int64)), tf.int32)
    return tf.where(refine > 0, looked_at, k)


def look_again(
    state: GraphState, queries_rot: tf.Tensor, keys: tf.Tensor, k: tf.Tensor
) -> tf.Tensor:
    """(n_queries, k) int64 keys, falling: of the (n_queries, width) candidates' vectors."""
    ranks = ranks_of(state, keys)
    rows = tf.maximum(tf.gather(state.row_of_rank, ranks), 0)
    again = keys_of(_scores(state, queries_rot, rows), ranks)
    return largest(tf.where(tf.equal(keys, NO_KEY), NO_KEY, again), k)


def _scores(state: GraphState, queries_rot: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """(n_queries, width) float32 of (n_queries, width) rows."""
    values = tf.cast(tf.gather(state.vectors, rows), tf.float32)
    scales = tf.gather(state.vector_scales, rows)
    queries = queries_rot[:, None]
    # Not matmul: equal vectors have to have equal scores, wherever they lie.
    if state.params.metric == "l2":
        differences = values * scales[..., None] - (queries - state.origin)
        return -tf.reduce_sum(differences**2, axis=2)
    return scales * tf.reduce_sum(values * queries, axis=2)
