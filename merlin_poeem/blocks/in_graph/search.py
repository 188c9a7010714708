"""Search of an index inside the TensorFlow graph, in stock operations only.

Queries that visit the same list are scored together: its items are decoded once, for one product of
matrices. Items with the same list and codes take the score of the first of them, so that they score
the same to the bit. Within a list rows are in order of item id, so that the best of it are those of
``top_k``, which of equal scores takes the first. To merge lists, score and item id make one int64
key, whose order is that of the results: score falling, then item id rising.

The index comes as tensors, so that one trace serves all indexes of a kind: :func:`search_function`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.models.tf.core.prediction import TopKPrediction

from merlin_poeem.blocks.in_graph.filters import GraphIdLists, Visits, eligible, id_lists
from merlin_poeem.blocks.in_graph.state import GraphState, state_specs
from merlin_poeem.quantization.params import IVFPQParams

BLOCK_BYTES = 64 << 20
SCAN_BYTES = 24
_NO_KEY = tf.int64.min
_LOW_BITS = 2**31 - 1


class CountedTopK(NamedTuple):
    """What :class:`IVFPQTopK` returns: Merlin's ``TopKPrediction``, and how much of it is real."""

    scores: tf.Tensor
    """(n_queries, k) float32, falling; −inf beyond the row's count."""

    identifiers: tf.Tensor
    """(n_queries, k) int64 item ids; ``FILL_ID`` beyond the row's count."""

    counts: tf.Tensor
    """(n_queries,) int64, results per query; fewer than k where the candidates ran out."""

    def to_df(self) -> pd.DataFrame:
        """Merlin's columns ``score_0`` … ``id_0`` …, and ``count``, which tells fill from result.

        Without the loop over cells of ``TopKPrediction.to_df``.
        """
        scores, item_ids = self.scores.numpy(), self.identifiers.numpy()
        k = scores.shape[1]
        names = TopKPrediction.output_names(k)
        frames = [
            pd.DataFrame(scores, columns=names[:k]),
            pd.DataFrame(item_ids, columns=names[k:]),
            pd.DataFrame({"count": self.counts.numpy()}),
        ]
        return pd.concat(frames, axis=1)


def request_specs(dim: int) -> list[tf.TensorSpec]:
    """What :meth:`GraphSearch.search` is asked for, by name and in order."""
    ids = ("exclude", "exclude_offsets", "allow", "allow_offsets")
    return [
        tf.TensorSpec((None, dim), tf.float32, "queries"),
        tf.TensorSpec((), tf.int32, "k"),
        tf.TensorSpec((), tf.int32, "n_probes"),
        *(tf.TensorSpec((None,), tf.int64, name) for name in ids),
    ]


@lru_cache(maxsize=32)
def search_function(
    params: IVFPQParams, dim: int, *, encodes_residual: bool, rotation: bool, twins: bool
) -> Any:
    """A ``tf.function`` of the state, as a dictionary, and a request; traced once, a second or so.

    For all indexes with these ``params``, whatever their items.
    """

    def search(state: dict[str, tf.Tensor], *request: tf.Tensor) -> CountedTopK:
        return GraphSearch(params, encodes_residual, **state).search(*request)

    specs = state_specs(params, dim, rotation=rotation, twins=twins)
    return tf.function(search, autograph=False, input_signature=[specs, *request_specs(dim)])


class GraphSearch(GraphState):
    """The state, searched. What comes back is that of :mod:`merlin_poeem.search.reference`.

    Memory is bounded for any number of queries: they are taken in blocks, as many as share
    ``BLOCK_BYTES``, and at least one.
    """

    def search(
        self,
        queries: tf.Tensor,
        k: tf.Tensor,
        n_probes: tf.Tensor,
        exclude: tf.Tensor,
        exclude_offsets: tf.Tensor,
        allow: tf.Tensor,
        allow_offsets: tf.Tensor,
    ) -> CountedTopK:
        """The search as a signature: id lists as their values (n_ids,) and offsets, all int64.

        Offsets are (n_queries + 1,), or (2,) for one list that holds for all queries, or (1,) for
        no filter.
        """
        with tf.control_dependencies(self._checks(queries, k, n_probes)):
            queries, k, n_probes = (tf.identity(given) for given in (queries, k, n_probes))
        queries_rot = self._rotated(queries)
        n_queries = tf.shape(queries)[0]
        filters = [
            id_lists(self, name, values, offsets, n_queries)
            for name, values, offsets in (
                ("exclude", exclude, exclude_offsets),
                ("allow", allow, allow_offsets),
            )
        ]
        step = self._queries_per_block(k, n_probes)
        n_blocks = tf.maximum(1, -(-n_queries // step))
        blocks = tf.TensorArray(
            tf.int64, size=n_blocks, infer_shape=False, element_shape=(None, None)
        )

        def search_block(i: tf.Tensor, blocks: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            start = i * step
            block = queries_rot[start : start + step]
            return i + 1, blocks.write(i, self._best_keys(block, start, k, n_probes, *filters))

        _, blocks = tf.while_loop(
            lambda i, _: i < n_blocks, search_block, (0, blocks), parallel_iterations=1
        )
        keys = tf.ensure_shape(blocks.concat(), (None, None))
        return self._from_keys(keys)

    def _checks(self, queries: tf.Tensor, k: tf.Tensor, n_probes: tf.Tensor) -> list[tf.Operation]:
        at_most = f"n_probes: expected at most n_lists = {self.n_lists}"
        return [
            tf.debugging.assert_all_finite(queries, "queries: expected finite values").op,
            tf.debugging.assert_positive(k, "k: expected at least 1"),
            tf.debugging.assert_positive(n_probes, "n_probes: expected at least 1"),
            tf.debugging.assert_less_equal(n_probes, self.n_lists, at_most),
        ]

    def _rotated(self, queries: tf.Tensor) -> tf.Tensor:
        if self.params.metric == "cosine":
            # In float64, as float32 squares of values beyond 1e±19 become infinite or zero.
            norms = tf.cast(
                tf.norm(tf.cast(queries, tf.float64), axis=1, keepdims=True), tf.float32
            )
            queries = tf.math.divide_no_nan(queries, norms)
        return queries if self.rotation is None else tf.matmul(queries, self.rotation)

    def _queries_per_block(self, k: tf.Tensor, n_probes: tf.Tensor) -> tf.Tensor:
        """() int32: as many queries as share BLOCK_BYTES, were all to visit the longest lists."""
        sizes = tf.math.top_k(self.list_offsets[1:] - self.list_offsets[:-1], n_probes).values
        longest, k, visited, n_probes = (
            tf.cast(number, tf.int64) for number in (sizes[0], k, tf.reduce_sum(sizes), n_probes)
        )
        scan = longest * SCAN_BYTES + visited
        kept = 16 * (n_probes * tf.minimum(k, longest) + k)
        needed = scan + kept + n_probes * 4 * (self.dim + 8) + 8 * (self.n_lists + self.dim)
        return tf.maximum(1, tf.cast(BLOCK_BYTES // needed, tf.int32))

    def _best_keys(
        self,
        queries_rot: tf.Tensor,
        first_query: tf.Tensor,
        k: tf.Tensor,
        n_probes: tf.Tensor,
        exclude: GraphIdLists,
        allow: GraphIdLists,
    ) -> tf.Tensor:
        """(n_queries, k) int64 keys of a block of queries, falling; _NO_KEY beyond the results."""
        lists, list_terms = self._visited_lists(queries_rot, n_probes)
        visits = self._visits(lists)
        is_eligible = eligible(self, visits, first_query, exclude, allow)
        if self.params.metric == "l2":
            queries_rot = 2 * (queries_rot - self.origin)
        # Of each visit as many as could be among the results.
        sizes = self.list_offsets[1:] - self.list_offsets[:-1]
        k_of_visit = tf.minimum(k, tf.maximum(1, tf.reduce_max(sizes)))
        visited, _, counts = tf.unique_with_counts(
            tf.gather(tf.reshape(lists, (-1,)), visits.order)
        )
        ends = tf.cumsum(counts)
        parts = tf.TensorArray(
            tf.int64, size=tf.size(visited) + 1, infer_shape=False, element_shape=(None, None)
        )
        # First nothing, as a block without queries visits no list.
        parts = parts.write(0, tf.zeros((0, k_of_visit), tf.int64))

        def scan_list(i: tf.Tensor, parts: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            members = visits.order[ends[i] - counts[i] : ends[i]]
            terms = tf.gather(tf.reshape(list_terms, (-1,)), members)
            queries = tf.gather(queries_rot, members // n_probes)
            rows = slice(self.list_offsets[visited[i]], self.list_offsets[visited[i] + 1])
            scores = self._scores_of_list(rows, queries, terms)
            keys = tf.cond(
                tf.equal(tf.size(is_eligible), 0),
                lambda: self._best_of_list(scores, rows, k_of_visit),
                lambda: self._best_eligible(
                    scores, rows, k_of_visit, self._of_list(is_eligible, visits, members, scores)
                ),
            )
            return i + 1, parts.write(i + 1, keys)

        _, parts = tf.while_loop(
            lambda i, _: i < tf.size(visited), scan_list, (0, parts), parallel_iterations=1
        )
        # What is of list after list, back in the order of queries.
        places = tf.math.invert_permutation(visits.order)
        keys = tf.gather(tf.ensure_shape(parts.concat(), (None, None)), places)
        shape = tf.stack([tf.shape(lists)[0], n_probes * k_of_visit])
        return _largest(tf.reshape(keys, shape), k)

    def _visits(self, lists: tf.Tensor) -> Visits:
        flat = tf.reshape(lists, (-1,))
        order = tf.argsort(flat, stable=True)
        sizes = tf.gather(self.list_offsets, flat + 1) - tf.gather(self.list_offsets, flat)
        starts = tf.cumsum(tf.gather(sizes, order), exclusive=True)
        starts = tf.scatter_nd(order[:, None], starts, tf.shape(flat))
        return Visits(lists, tf.reshape(starts, tf.shape(lists)), order, tf.reduce_sum(sizes))

    def _scores_of_list(
        self, rows: slice, queries_rot: tf.Tensor, list_terms: tf.Tensor
    ) -> tf.Tensor:
        """(n_queries, items of the list) float32, in order of row."""
        scores = tf.matmul(queries_rot, self._decoded(rows), transpose_b=True)
        scores += list_terms[:, None]
        if self.params.metric == "cosine":
            scores *= self.item_terms[rows]
        if self.params.metric == "l2":
            scores += self.item_terms[rows]
        if self.twin_of_row is not None:
            scores = tf.gather(scores, self.twin_of_row[rows] - rows.start, axis=1)
        return scores

    def _best_of_list(self, scores: tf.Tensor, rows: slice, k: tf.Tensor) -> tf.Tensor:
        """(n_queries, k) keys of the best of a list, falling."""
        best = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
        keys = _keys(best.values, tf.gather(self.rank_of_row[rows], best.indices))
        return _filled(keys, k)

    def _best_eligible(
        self, scores: tf.Tensor, rows: slice, k: tf.Tensor, is_eligible: tf.Tensor
    ) -> tf.Tensor:
        """:meth:`_best_of_list` of those eligible."""
        scores = tf.where(is_eligible, tf.maximum(scores, tf.float32.min), -np.inf)
        keys = self._best_of_list(scores, rows, k)
        n_eligible = tf.math.count_nonzero(is_eligible, axis=1, dtype=tf.int32)
        return tf.where(tf.sequence_mask(n_eligible, k), keys, _NO_KEY)

    def _of_list(
        self, is_eligible: tf.Tensor, visits: Visits, members: tf.Tensor, scores: tf.Tensor
    ) -> tf.Tensor:
        """(n_queries, items of the list) bool: of all candidates, those of the visits of a list."""
        start = tf.gather(tf.reshape(visits.starts, (-1,)), members[0])
        return tf.reshape(is_eligible[start : start + tf.size(scores)], tf.shape(scores))

    def _decoded(self, rows: slice) -> tf.Tensor:
        """(n_items, dim) float32 codewords of the items, rotated space, without centroids."""
        codes = tf.cast(self.packed_codes[rows], tf.int32)
        if self.params.pq_bits == 4:
            pairs = tf.stack([codes & 15, tf.bitwise.right_shift(codes, 4)], axis=2)
            codes = tf.reshape(pairs, (-1, 2 * self.packed_codes.shape[1]))
        pq_dim, book_size, pq_len = self.codebook.shape
        firsts = tf.range(pq_dim) * book_size
        codewords = tf.reshape(self.codebook, (-1, pq_len))
        return tf.reshape(tf.gather(codewords, codes[:, :pq_dim] + firsts), (-1, self.dim))

    def _visited_lists(
        self, queries_rot: tf.Tensor, n_probes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best lists (n_queries, n_probes) int32, and their terms in the scores of items."""
        centroids = tf.convert_to_tensor(self.coarse_centroids)
        norms = tf.norm(centroids, axis=1)
        if self.params.metric == "cosine":
            centroids = tf.math.divide_no_nan(centroids, norms[:, None])
        scores = tf.matmul(queries_rot, centroids, transpose_b=True)
        if self.params.metric == "l2":
            scores = 2 * scores - tf.reduce_sum(centroids**2, axis=1)
            scores -= tf.reduce_sum(queries_rot**2, axis=1, keepdims=True)
        best = tf.math.top_k(scores, n_probes)
        return best.indices, self._list_terms(queries_rot, best.indices, best.values, norms)

    def _list_terms(
        self, queries_rot: tf.Tensor, lists: tf.Tensor, scores: tf.Tensor, norms: tf.Tensor
    ) -> tf.Tensor:
        """(n_queries, n_probes) float32: ⟨q, c⟩, or under l2 −‖q − c‖²; c is 0 without residual."""
        if self.params.metric == "l2":
            queries = queries_rot[:, None]
            # Not from the lists' scores, which lose what ‖q‖² and ‖c‖² have in common.
            centres = tf.gather(self.coarse_centroids, lists)
            if not self.encodes_residual:
                centres = tf.zeros_like(centres) + self.origin
            return -tf.reduce_sum((queries - centres) ** 2, axis=2)
        if not self.encodes_residual:
            return tf.zeros_like(scores)
        return scores * tf.gather(norms, lists) if self.params.metric == "cosine" else scores

    def _from_keys(self, keys: tf.Tensor) -> CountedTopK:
        """The results that (n_queries, k) keys stand for."""
        is_result = tf.not_equal(keys, _NO_KEY)
        high = tf.cast(tf.bitwise.right_shift(keys, tf.constant(32, tf.int64)), tf.int32)
        scores = tf.where(is_result, tf.bitcast(_ordered(high), tf.float32), -np.inf)
        ranks = _LOW_BITS - tf.bitwise.bitwise_and(keys, tf.constant(2**32 - 1, tf.int64))
        n_items = tf.cast(self.n_items, tf.int64)
        item_ids = tf.gather(self.sorted_ids, tf.where(is_result, ranks, n_items))
        return CountedTopK(scores, item_ids, tf.reduce_sum(tf.cast(is_result, tf.int64), axis=1))


def _keys(scores: tf.Tensor, ranks: tf.Tensor) -> tf.Tensor:
    """Int64 that rise with (n, m) scores, and among equal scores fall with the (n, m) ranks."""
    scores = tf.where(tf.equal(scores, 0), 0.0, scores)  # −0 is 0
    high = tf.cast(_ordered(tf.bitcast(scores, tf.int32)), tf.int64) * 2**32
    return high + tf.cast(_LOW_BITS - ranks, tf.int64)


def _largest(keys: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """(n, k) of the (n, m) keys, falling, filled up where k is more than m."""
    return _filled(tf.math.top_k(keys, tf.minimum(k, tf.shape(keys)[1])).values, k)


def _filled(keys: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """(n, k): the keys of (n, at most k), and _NO_KEY after them."""
    missing = k - tf.shape(keys)[1]
    return tf.pad(keys, [[0, 0], [0, missing]], constant_values=_NO_KEY)


def _ordered(bits: tf.Tensor) -> tf.Tensor:
    """Bits of float32 as int32 that sort as the floats do; and back again."""
    signs = tf.bitwise.right_shift(bits, tf.constant(31, tf.int32))
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(signs, 2**31 - 1))
