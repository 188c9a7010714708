"""Search of an index inside the TensorFlow graph, in stock operations only.

What comes back is that of :mod:`merlin_poeem.search.reference`. Memory is bounded for any number of
queries: they are taken in blocks, as many as share ``BLOCK_BYTES``, and at least one. A block's
lists are chosen (:mod:`~merlin_poeem.blocks.in_graph.visits`) and scanned
(:mod:`~merlin_poeem.blocks.in_graph.scan`), the best of them merged
(:mod:`~merlin_poeem.blocks.in_graph.keys`), and looked at again where that is asked for
(:mod:`~merlin_poeem.blocks.in_graph.second_look`).

The index comes as tensors, so that one trace serves all indexes of a kind: :func:`search_function`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import tensorflow as tf

from merlin_poeem.arrays import largest_value
from merlin_poeem.blocks.in_graph.filters import GraphIdLists, eligible, id_lists
from merlin_poeem.blocks.in_graph.keys import largest, results_of
from merlin_poeem.blocks.in_graph.scan import best_of_visits
from merlin_poeem.blocks.in_graph.second_look import CANDIDATE_BYTES, look_again, n_candidates_of
from merlin_poeem.blocks.in_graph.signature import CountedTopK, request_specs
from merlin_poeem.blocks.in_graph.state import GraphState, Kind, state_specs
from merlin_poeem.blocks.in_graph.visits import visits_of
from merlin_poeem.quantization.params import IVFPQParams

BLOCK_BYTES = 64 << 20
SCAN_BYTES = 24
NO_VECTORS = "refine: expected 0, as the index holds no vectors"


@lru_cache(maxsize=32)
def search_function(params: IVFPQParams, dim: int, kind: Kind, *, encodes_residual: bool) -> Any:
    """A ``tf.function`` of the state, as a dictionary, and a request; traced once, a second or so.

    For all indexes with these ``params`` and of this ``kind``, whatever their items.
    """

    def search_state(state: dict[str, tf.Tensor], *request: tf.Tensor) -> CountedTopK:
        return search(GraphState(params, encodes_residual, **state), *request)

    specs = state_specs(params, dim, kind)
    return tf.function(search_state, autograph=False, input_signature=[specs, *request_specs(dim)])


def search(
    state: GraphState,
    queries: tf.Tensor,
    k: tf.Tensor,
    n_probes: tf.Tensor,
    refine: tf.Tensor,
    exclude: tf.Tensor,
    exclude_offsets: tf.Tensor,
    allow: tf.Tensor,
    allow_offsets: tf.Tensor,
) -> CountedTopK:
    """The search as a signature: id lists as their values (n_ids,) and offsets, all int64.

    Offsets are (n_queries + 1,), or (2,) for one list that holds for all queries, or (1,) for
    no filter.
    """
    with tf.control_dependencies(_checks(state, queries, k, n_probes, refine)):
        queries, k, n_probes, refine = map(tf.identity, (queries, k, n_probes, refine))
    queries_rot = _rotated(state, queries)
    n_queries = tf.shape(queries)[0]
    filters = [
        id_lists(state, name, values, offsets, n_queries)
        for name, values, offsets in (
            ("exclude", exclude, exclude_offsets),
            ("allow", allow, allow_offsets),
        )
    ]
    step = queries_per_block(state, k, n_probes, refine)
    n_blocks = tf.maximum(1, -(-n_queries // step))
    blocks = tf.TensorArray(tf.int64, size=n_blocks, infer_shape=False, element_shape=(None, None))

    def search_block(i: tf.Tensor, blocks: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        start = i * step
        block = queries_rot[start : start + step]
        keys = _best_keys(state, block, start, k, n_probes, refine, *filters)
        return i + 1, blocks.write(i, keys)

    _, blocks = tf.while_loop(
        lambda i, _: i < n_blocks, search_block, (0, blocks), parallel_iterations=1
    )
    return results_of(state, tf.ensure_shape(blocks.concat(), (None, None)))


def queries_per_block(
    state: GraphState, k: tf.Tensor, n_probes: tf.Tensor, refine: tf.Tensor
) -> tf.Tensor:
    """() int32: as many queries as share BLOCK_BYTES, were all to visit the longest lists."""
    sizes = tf.math.top_k(state.list_offsets[1:] - state.list_offsets[:-1], n_probes).values
    n_candidates = n_candidates_of(state, k, refine)
    longest, k, visited, n_probes, n_candidates = (
        tf.cast(number, tf.int64)
        for number in (sizes[0], k, tf.reduce_sum(sizes), n_probes, n_candidates)
    )
    scan = longest * SCAN_BYTES + visited
    kept = 16 * (n_probes * tf.minimum(n_candidates, longest) + n_candidates + k)
    looked_at = tf.where(refine > 0, n_candidates, 0) * (state.dim + 8) * CANDIDATE_BYTES
    of_lists = n_probes * 4 * (state.dim + 8) + 8 * (state.n_lists + state.dim)
    needed = scan + kept + looked_at + of_lists
    return tf.maximum(1, tf.cast(BLOCK_BYTES // needed, tf.int32))


def _checks(
    state: GraphState, queries: tf.Tensor, k: tf.Tensor, n_probes: tf.Tensor, refine: tf.Tensor
) -> list[tf.Operation]:
    at_most = f"n_probes: expected at most n_lists = {state.n_lists}"
    finite = tf.debugging.assert_all_finite(queries, "queries: expected finite values").op
    most = largest_value(state.params.metric)
    with tf.control_dependencies([finite]):
        size = tf.reduce_max(tf.abs(queries))
    too_large = f"queries: expected values of at most {most:.0e} in size"
    return [
        finite,
        tf.debugging.assert_less_equal(size, most, too_large),
        tf.debugging.assert_positive(k, "k: expected at least 1"),
        tf.debugging.assert_positive(n_probes, "n_probes: expected at least 1"),
        tf.debugging.assert_less_equal(n_probes, state.n_lists, at_most),
        tf.debugging.assert_non_negative(refine, "refine: expected at least 0"),
        *([] if state.vectors is not None else [tf.debugging.assert_equal(refine, 0, NO_VECTORS)]),
    ]


def _rotated(state: GraphState, queries: tf.Tensor) -> tf.Tensor:
    if state.params.metric == "cosine":
        # In float64, as float32 squares of values beyond 1e±19 become infinite or zero.
        norms = tf.cast(tf.norm(tf.cast(queries, tf.float64), axis=1, keepdims=True), tf.float32)
        queries = tf.math.divide_no_nan(queries, norms)
    return queries if state.rotation is None else tf.matmul(queries, state.rotation)


def _best_keys(
    state: GraphState,
    queries_rot: tf.Tensor,
    first_query: tf.Tensor,
    k: tf.Tensor,
    n_probes: tf.Tensor,
    refine: tf.Tensor,
    exclude: GraphIdLists,
    allow: GraphIdLists,
) -> tf.Tensor:
    """(n_queries, k) int64 keys of a block of queries, falling; ``NO_KEY`` beyond the results."""
    visits = visits_of(state, queries_rot, n_probes)
    is_eligible = eligible(state, visits, first_query, exclude, allow)
    n_candidates = n_candidates_of(state, k, refine)
    keys = best_of_visits(state, visits, queries_rot, n_candidates, is_eligible)
    keys = largest(keys, n_candidates)
    if state.vectors is None:
        return keys
    return tf.cond(refine > 0, lambda: look_again(state, queries_rot, keys, k), lambda: keys)
