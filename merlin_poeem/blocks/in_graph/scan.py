"""The items of visited lists, scored list by list.

Queries that visit the same list are scored together: its items are decoded once, for one product of
matrices. Items with the same list and codes take the score of the first of them, and each then its
own scale, so that those of the same scale score the same to the bit. Within a list rows are in
order of item id, so that the best of it are those of ``top_k``, which of equal scores takes the
first.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from merlin_poeem.blocks.in_graph.keys import NO_KEY, filled, keys_of
from merlin_poeem.blocks.in_graph.state import GraphState
from merlin_poeem.blocks.in_graph.visits import Visits


def best_of_visits(
    state: GraphState,
    visits: Visits,
    queries_rot: tf.Tensor,
    k: tf.Tensor,
    is_eligible: tf.Tensor,
) -> tf.Tensor:
    """(n_queries, n_probes * m) int64 keys of the best items of each query's visits, unsorted.

    Of each visit m: as many as could be among ``k`` results, ``NO_KEY`` where it has fewer.
    ``is_eligible`` is (n_candidates,) bool, list by list; or (0,), where all are.
    """
    n_queries, n_probes = tf.unstack(tf.shape(visits.lists))
    if state.params.metric == "l2":
        queries_rot = 2 * (queries_rot - state.origin)
    sizes = state.list_offsets[1:] - state.list_offsets[:-1]
    k_of_visit = tf.minimum(k, tf.maximum(1, tf.reduce_max(sizes)))
    visited, _, counts = tf.unique_with_counts(
        tf.gather(tf.reshape(visits.lists, (-1,)), visits.order)
    )
    ends = tf.cumsum(counts)
    parts = tf.TensorArray(
        tf.int64, size=tf.size(visited) + 1, infer_shape=False, element_shape=(None, None)
    )
    # First nothing, as a block without queries visits no list.
    parts = parts.write(0, tf.zeros((0, k_of_visit), tf.int64))

    def scan_list(i: tf.Tensor, parts: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        members = visits.order[ends[i] - counts[i] : ends[i]]
        terms = tf.gather(tf.reshape(visits.terms, (-1,)), members)
        queries = tf.gather(queries_rot, members // n_probes)
        rows = slice(state.list_offsets[visited[i]], state.list_offsets[visited[i] + 1])
        scores = _scores(state, rows, queries, terms)
        keys = tf.cond(
            tf.equal(tf.size(is_eligible), 0),
            lambda: _best(state, rows, scores, k_of_visit),
            lambda: _best_eligible(
                state, rows, scores, k_of_visit, _of_list(is_eligible, visits, members, scores)
            ),
        )
        return i + 1, parts.write(i + 1, keys)

    _, parts = tf.while_loop(
        lambda i, _: i < tf.size(visited), scan_list, (0, parts), parallel_iterations=1
    )
    # What is of list after list, back in the order of queries.
    places = tf.math.invert_permutation(visits.order)
    keys = tf.gather(tf.ensure_shape(parts.concat(), (None, None)), places)
    return tf.reshape(keys, tf.stack([n_queries, n_probes * k_of_visit]))


def _scores(state: GraphState, rows: slice, queries: tf.Tensor, terms: tf.Tensor) -> tf.Tensor:
    """(n_queries, items of the list) float32, in order of row; ``terms`` are (n_queries,)."""
    scores = tf.matmul(queries, _decoded(state, rows), transpose_b=True)
    scores += terms[:, None]
    if state.params.metric == "cosine" and state.scales is None:
        scores *= state.item_terms[rows]
    if state.params.metric == "l2":
        scores += state.item_terms[rows]
    if state.twin_of_row is not None:
        scores = tf.gather(scores, state.twin_of_row[rows] - rows.start, axis=1)
    if state.scales is not None:
        scores *= tf.gather(state.scale_table, tf.cast(state.scales[rows], tf.int32))
    return scores


def _decoded(state: GraphState, rows: slice) -> tf.Tensor:
    """(n_items, dim) float32 codewords of the items, rotated space, without centroids."""
    codes = tf.cast(state.packed_codes[rows], tf.int32)
    if state.params.pq_bits == 4:
        pairs = tf.stack([codes & 15, tf.bitwise.right_shift(codes, 4)], axis=2)
        codes = tf.reshape(pairs, (-1, 2 * state.packed_codes.shape[1]))
    pq_dim, book_size, pq_len = state.codebook.shape
    firsts = tf.range(pq_dim) * book_size
    codewords = tf.reshape(state.codebook, (-1, pq_len))
    return tf.reshape(tf.gather(codewords, codes[:, :pq_dim] + firsts), (-1, state.dim))


def _best(state: GraphState, rows: slice, scores: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """(n_queries, k) keys of the best of a list, falling."""
    best = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
    keys = keys_of(best.values, tf.gather(state.rank_of_row[rows], best.indices))
    return filled(keys, k)


def _best_eligible(
    state: GraphState, rows: slice, scores: tf.Tensor, k: tf.Tensor, is_eligible: tf.Tensor
) -> tf.Tensor:
    """:func:`_best` of those eligible."""
    scores = tf.where(is_eligible, tf.maximum(scores, tf.float32.min), -np.inf)
    keys = _best(state, rows, scores, k)
    n_eligible = tf.math.count_nonzero(is_eligible, axis=1, dtype=tf.int32)
    return tf.where(tf.sequence_mask(n_eligible, k), keys, NO_KEY)


def _of_list(
    is_eligible: tf.Tensor, visits: Visits, members: tf.Tensor, scores: tf.Tensor
) -> tf.Tensor:
    """(n_queries, items of the list) bool: of all candidates, those of the visits of a list."""
    start = tf.gather(tf.reshape(visits.starts, (-1,)), members[0])
    return tf.reshape(is_eligible[start : start + tf.size(scores)], tf.shape(scores))
