"""Which lists the queries of a block visit, and in which order these are scanned."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from merlin_poeem.blocks.in_graph.state import GraphState


class Visits(NamedTuple):
    """The visits of a block of queries to lists; a visit is a query and one of its probes."""

    lists: tf.Tensor
    """(n_queries, n_probes) int32, the lists visited."""

    terms: tf.Tensor
    """(n_queries, n_probes) float32, what a visit adds to the scores of all its items."""

    starts: tf.Tensor
    """(n_queries, n_probes) int32, where a visit's items start among all, list by list."""

    order: tf.Tensor
    """(n_queries * n_probes,) int32, the visits list by list."""

    n_candidates: tf.Tensor
    """() int32, items of all visits."""


def visits_of(state: GraphState, queries_rot: tf.Tensor, n_probes: tf.Tensor) -> Visits:
    """The visits of (n_queries, dim) queries to their best lists."""
    lists, terms = _best_lists(state, queries_rot, n_probes)
    flat = tf.reshape(lists, (-1,))
    order = tf.argsort(flat, stable=True)
    sizes = tf.gather(state.list_offsets, flat + 1) - tf.gather(state.list_offsets, flat)
    starts = tf.cumsum(tf.gather(sizes, order), exclusive=True)
    starts = tf.scatter_nd(order[:, None], starts, tf.shape(flat))
    starts = tf.reshape(starts, tf.shape(lists))
    return Visits(lists, terms, starts, order, tf.reduce_sum(sizes))


def _best_lists(
    state: GraphState, queries_rot: tf.Tensor, n_probes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best lists (n_queries, n_probes) int32, and their terms in the scores of items."""
    centroids = tf.convert_to_tensor(state.coarse_centroids)
    norms = tf.norm(centroids, axis=1)
    if state.params.metric == "cosine":
        centroids = tf.math.divide_no_nan(centroids, norms[:, None])
    products = tf.matmul(queries_rot, centroids, transpose_b=True)
    scores = products
    if state.params.metric == "l2":
        scores = 2 * products - tf.reduce_sum(centroids**2, axis=1)
        scores -= tf.reduce_sum(queries_rot**2, axis=1, keepdims=True)
    if state.list_factors is not None:
        lengths = norms if state.params.metric == "cosine" else 1.0
        scores = products * (lengths * state.list_factors)
    lists = tf.math.top_k(scores, n_probes).indices
    of_lists = tf.gather(products, lists, batch_dims=1)
    return lists, _terms(state, queries_rot, lists, of_lists, norms)


def _terms(
    state: GraphState,
    queries_rot: tf.Tensor,
    lists: tf.Tensor,
    products: tf.Tensor,
    norms: tf.Tensor,
) -> tf.Tensor:
    """(n_queries, n_probes) float32: ⟨q, c⟩, or under l2 −‖q − c‖²; c is 0 without residual.

    ``products`` (n_queries, n_probes) are ⟨q, c⟩, under cosine divided by ‖c‖.
    """
    if state.params.metric == "l2":
        queries = queries_rot[:, None]
        # Not from the products, which lose what ‖q‖² and ‖c‖² have in common.
        centres = tf.gather(state.coarse_centroids, lists)
        if not state.encodes_residual:
            centres = tf.zeros_like(centres) + state.origin
        return -tf.reduce_sum((queries - centres) ** 2, axis=2)
    if not state.encodes_residual:
        return tf.zeros_like(products)
    return products * tf.gather(norms, lists) if state.params.metric == "cosine" else products
