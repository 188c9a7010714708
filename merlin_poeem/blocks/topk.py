"""IVFPQTopK: search of an index inside the TensorFlow graph, in stock operations only.

Queries that visit the same list are scored together: its items are decoded once, for one product of
matrices. Items with the same list and codes take the score of the first of them, so that they score
the same to the bit. Score and item id then make one int64 key, whose order is that of the results:
score falling, then item id rising.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.models.tf.core.prediction import Prediction, TopKPrediction
from merlin.models.tf.outputs.topk import TopKLayer

from merlin_poeem import reference
from merlin_poeem.arrays import Float32, Int32
from merlin_poeem.index import Index
from merlin_poeem.item_codes import Quantization
from merlin_poeem.params import IVFPQParams, Metric, check_n_probes, positive_int

IdsGiven: TypeAlias = "tf.RaggedTensor | tf.Tensor | tuple[tf.Tensor, tf.Tensor] | None"

FILL_ID = 2**63 - 1
"""The id in the places of a row that lie beyond its count; the score there is −inf."""

BLOCK_BYTES = 64 << 20
SCAN_BYTES = 48
MAX_ITEMS = 2**31 - 2
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


class _Visits(NamedTuple):
    """The visits of a block of queries to lists; a visit is a query and one of its probes."""

    lists: tf.Tensor
    """(n_queries, n_probes) int32, the lists visited."""

    starts: tf.Tensor
    """(n_queries, n_probes) int32, where a visit's items start among all, list by list."""

    order: tf.Tensor
    """(n_queries * n_probes,) int32, the visits list by list."""

    n_candidates: tf.Tensor
    """() int32, items of all visits."""


class _IdLists(NamedTuple):
    """Rows of the items in an exclude or allow: of one list a query, of one for all, or none."""

    rows: tf.Tensor
    """(n_ids,) int32, −1 where the index does not hold the id."""

    offsets: tf.Tensor
    """(1,) there is no filter; (2,) one list, for all queries; (n_queries + 1,) one a query."""

    holds: tf.Tensor
    """(n_items + 1,) bool, whether the list for all queries holds the row; else (0,)."""

    kind: tf.Tensor
    """() int32: 0 no filter, 1 one list for all queries, 2 one list a query."""


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class IVFPQTopK(TopKLayer):
    """The ``k`` best items of the ``n_probes`` best lists of each query, searched in the graph.

    Made with :meth:`from_index`; goes where Merlin's ``BruteForce`` does::

        topk = IVFPQTopK.from_index(index, k=20, n_probes=4)
        encoder = mm.TopKEncoder(query_encoder, topk_layer=topk, k=20)
        encoder(features)  # k and n_probes of the layer
        encoder(features, k=50, n_probes=8, exclude=seen_items)  # chosen at call time

    The answer is that of :mod:`merlin_poeem.reference`: int64 ids, equal scores in order of item
    id. A row with fewer than ``k`` results is filled up with the score −inf and ``FILL_ID``, and
    ``counts`` says how many are results.

    The state is the index: its codes as stored, 16 bytes an item for ids and their order, 4 more
    under cosine and l2, and 4 more where items share list and codes. Memory in a search is bounded
    for any number of queries: they are taken in blocks, as many as share ``BLOCK_BYTES``, and at
    least one.
    """

    def __init__(
        self,
        n_items: int,
        dim: int,
        n_lists: int,
        pq_dim: int,
        pq_bits: int = 8,
        *,
        metric: Metric = "inner_product",
        n_probes: int = 1,
        rotation: bool = False,
        encodes_residual: bool = True,
        twins: bool = False,
        k: int = 10,
        name: str = "ivfpq_top_k",
        **kwargs: Any,
    ) -> None:
        """A layer of zeros, to be restored from a checkpoint; see :meth:`from_index`.

        Parameters
        ----------
        n_items, dim
            Items in the index, and the width of queries.
        n_lists, pq_dim, pq_bits, metric
            As in :class:`~merlin_poeem.params.IVFPQParams`.
        n_probes, k
            What a call takes that names none.
        rotation, encodes_residual
            Whether the quantization has a rotation, and whether its codes are of residuals.
        twins
            Whether items share list and codes with others.
        """
        # Keras casts a layer's inputs under mixed precision: scores and codes stay in float32.
        kwargs["dtype"] = "float32"
        super().__init__(k=positive_int("k", k), name=name, trainable=False, **kwargs)
        self.params = IVFPQParams(
            n_lists=n_lists, pq_dim=pq_dim, pq_bits=pq_bits, metric=metric, n_probes=n_probes
        )
        if not 0 <= n_items <= MAX_ITEMS:
            raise ValueError(f"n_items: expected 0 to {MAX_ITEMS}, got {n_items}")
        self.n_items, self.dim, self.n_probes = int(n_items), int(dim), self.params.n_probes
        self.rotates, self.encodes_residual = bool(rotation), bool(encodes_residual)
        pq_len, book_size = self.params.pq_len(self.dim), self.params.pq_book_size
        self.coarse_centroids = self._state("coarse_centroids", (n_lists, dim))
        self.codebook = self._state("codebook", (pq_dim, book_size, pq_len))
        self.rotation = self._state("rotation", (dim, dim)) if rotation else None
        self.list_offsets = self._state("list_offsets", (n_lists + 1,), tf.int32)
        width = -(-pq_dim // 2) if pq_bits == 4 else pq_dim
        code_dtype = tf.uint8 if pq_bits <= 8 else tf.uint16
        self.packed_codes = self._state("packed_codes", (n_items, width), code_dtype)
        # In order of id, which is what a rank counts; at the end FILL_ID, of no row.
        self.sorted_ids = self._state("sorted_ids", (n_items + 1,), tf.int64)
        self.rank_of_row = self._state("rank_of_row", (n_items,), tf.int32)
        self.row_of_rank = self._state("row_of_rank", (n_items + 1,), tf.int32)
        if metric != "inner_product":
            self.item_terms = self._state("item_terms", (n_items,))
        if metric == "l2":
            self.origin = self._state("origin", (dim,))
        self.has_twins = bool(twins)
        if twins:
            self.twin_of_row = self._state("twin_of_row", (n_items,), tf.int32)
        self.search = tf.function(
            self._search,
            autograph=False,
            input_signature=[
                tf.TensorSpec((None, self.dim), tf.float32, "queries"),
                tf.TensorSpec((), tf.int32, "k"),
                tf.TensorSpec((), tf.int32, "n_probes"),
                tf.TensorSpec((None,), tf.int64, "exclude"),
                tf.TensorSpec((None,), tf.int64, "exclude_offsets"),
                tf.TensorSpec((None,), tf.int64, "allow"),
                tf.TensorSpec((None,), tf.int64, "allow_offsets"),
            ],
        )
        """:meth:`_search` in one trace: what a ``tf.saved_model`` of the layer offers."""

    @classmethod
    def from_index(
        cls, index: Index, *, k: int = 10, n_probes: int | None = None, **kwargs: Any
    ) -> IVFPQTopK:
        """A layer that holds ``index``; ``k`` and ``n_probes`` (None: the index's) as defaults.

        Raises ``TypeError`` or ``ValueError`` on a ``k`` or ``n_probes`` out of range.
        """
        params, quantization = index.params, index.quantization
        twin_of_row = _twin_of_row(index)
        layer = cls(
            index.n_items,
            index.dim,
            params.n_lists,
            params.pq_dim,
            params.pq_bits,
            metric=params.metric,
            n_probes=params.n_probes if n_probes is None else n_probes,
            rotation=quantization.rotation is not None,
            encodes_residual=quantization.encodes_residual,
            twins=bool((twin_of_row != np.arange(index.n_items)).any()),
            k=k,
            **kwargs,
        )
        layer._assign(index, twin_of_row)
        return layer

    def index(self, candidates: tf.Tensor, identifiers: tf.Tensor | None = None) -> TopKLayer:
        """Not here: vectors become an index outside the graph, see :meth:`from_index`."""
        raise NotImplementedError(
            "IVFPQTopK: expected an Index, got candidate vectors; make one with export_index or "
            "Index.from_vectors and the layer with IVFPQTopK.from_index(index)"
        )

    def call(
        self,
        inputs: tf.Tensor,
        targets: tf.Tensor | None = None,
        testing: bool = False,
        k: Any = None,
        n_probes: Any = None,
        exclude: IdsGiven = None,
        allow: IdsGiven = None,
    ) -> CountedTopK | Prediction:
        """Search for (n_queries, dim) float32 query vectors, raw space.

        Parameters
        ----------
        inputs
            The queries; a ragged (n_queries, 1, dim) is taken as Merlin's ``BruteForce`` takes it.
        targets, testing
            In evaluation the one right item id of each query; a ``Prediction`` of the scores and
            of the (n_queries, k) 0/1 relevance then comes back.
        k, n_probes
            Integers or () tensors; None takes the layer's own.
        exclude, allow
            Item ids never returned, or the only ones that may be: a ragged (n_queries, None), one
            list a query; or a (n_ids,) tensor for all queries; or a pair of values and offsets, as
            ``search`` takes them. An empty ``allow`` allows nothing.

        Raises
        ------
        TypeError, ValueError, tf.errors.InvalidArgumentError
            ``k`` or ``n_probes`` out of range, another width than ``dim``, NaN or infinite
            queries, another number of id lists than queries, ids that are not integers. What is
            known only when the graph runs is the last of these.
        """
        if isinstance(inputs, tf.RaggedTensor):
            inputs = tf.squeeze(inputs.to_tensor(), axis=1)
        if inputs.shape.rank != 2 or inputs.shape[1] not in (None, self.dim):
            raise ValueError(f"queries: expected shape (n, {self.dim}), got {inputs.shape}")
        n_queries = tf.shape(inputs, tf.int64)[0]
        k = self._k if k is None else k
        n_probes = self.n_probes if n_probes is None else n_probes
        scores, item_ids, counts = self.search(
            inputs,
            k if tf.is_tensor(k) else positive_int("k", k),
            n_probes if tf.is_tensor(n_probes) else check_n_probes(n_probes, self.params.n_lists),
            *_flat_ids("exclude", exclude, n_queries),
            *_flat_ids("allow", allow, n_queries),
        )
        shape = (inputs.shape[0], None if tf.is_tensor(k) else k)
        found = CountedTopK(
            tf.ensure_shape(scores, shape), tf.ensure_shape(item_ids, shape), counts
        )
        return _relevance(found, targets) if testing else found

    def compute_output_shape(self, input_shape: tf.TensorShape) -> CountedTopK:
        """(n_queries, k) twice, and (n_queries,)."""
        shape = tf.TensorShape((input_shape[0], self._k))
        return CountedTopK(shape, shape, shape[:1])

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs to make the layer again, its state apart."""
        config = {
            **super().get_config(),
            **self.params.to_dict(),
            "n_items": self.n_items,
            "dim": self.dim,
            "n_probes": self.n_probes,
            "rotation": self.rotates,
            "encodes_residual": self.encodes_residual,
            "twins": self.has_twins,
        }
        for name in ("dtype", "trainable"):
            del config[name]
        return config

    def _state(self, name: str, shape: tuple[int, ...], dtype: Any = tf.float32) -> tf.Variable:
        return self.add_weight(name, shape, dtype=dtype, initializer="zeros", trainable=False)

    def _assign(self, index: Index, twin_of_row: Int32) -> None:
        quantization, metric = index.quantization, self.params.metric
        rank_order = np.argsort(index.item_ids, kind="stable")
        rank_of_row = np.empty(self.n_items, np.int32)
        rank_of_row[rank_order] = np.arange(self.n_items, dtype=np.int32)
        self.coarse_centroids.assign(quantization.coarse_centroids)
        if self.rotation is not None:
            self.rotation.assign(quantization.rotation)
        self.list_offsets.assign(index.list_offsets.astype(np.int32))
        self.packed_codes.assign(index.packed_codes)
        if self.has_twins:
            self.twin_of_row.assign(twin_of_row)
        self.sorted_ids.assign(np.append(index.item_ids[rank_order], FILL_ID))
        self.rank_of_row.assign(rank_of_row)
        self.row_of_rank.assign(np.append(rank_order, -1).astype(np.int32))
        codebook = quantization.codebook
        if metric == "cosine":
            self.item_terms.assign(_item_terms(index, np.zeros(self.dim, np.float32)))
        if metric == "l2":
            origin = _origin(quantization)
            self.origin.assign(origin)
            self.item_terms.assign(_item_terms(index, origin))
            if not self.encodes_residual:
                codebook = codebook - origin.reshape(self.params.pq_dim, 1, -1)
        self.codebook.assign(codebook)

    def _search(
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
            self._id_lists(name, values, offsets, n_queries)
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
        n_lists = self.params.n_lists
        at_most = f"n_probes: expected at most n_lists = {n_lists}"
        return [
            tf.debugging.assert_all_finite(queries, "queries: expected finite values").op,
            tf.debugging.assert_positive(k, "k: expected at least 1"),
            tf.debugging.assert_positive(n_probes, "n_probes: expected at least 1"),
            tf.debugging.assert_less_equal(n_probes, n_lists, at_most),
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
        needed = scan + kept + n_probes * 4 * (self.dim + 8) + 8 * (self.params.n_lists + self.dim)
        return tf.maximum(1, tf.cast(BLOCK_BYTES // needed, tf.int32))

    def _id_lists(
        self, name: str, values: tf.Tensor, offsets: tf.Tensor, n_queries: tf.Tensor
    ) -> _IdLists:
        n_lists = tf.size(offsets) - 1
        fits = (n_lists == n_queries) | (n_lists == 1) | (n_lists == 0)
        message = f"{name}: expected one list a query, one for all, or none"
        tf.debugging.Assert(fits, [message, "queries:", n_queries, "got:", n_lists])
        ranks = tf.searchsorted(self.sorted_ids, values)
        is_held = tf.equal(tf.gather(self.sorted_ids, ranks), values)
        rows = tf.where(is_held, tf.gather(self.row_of_rank, ranks), -1)
        kind = tf.where(n_lists == 0, 0, tf.where((n_lists == 1) & (n_queries != 1), 1, 2))

        def held_rows() -> tf.Tensor:
            places = tf.where(is_held, rows, self.n_items)[:, None]
            nothing = tf.zeros((self.n_items + 1,), tf.bool)
            return tf.tensor_scatter_nd_update(nothing, places, tf.ones_like(is_held))

        holds = tf.cond(tf.equal(kind, 1), held_rows, lambda: tf.zeros((0,), tf.bool))
        return _IdLists(rows, tf.cast(offsets, tf.int32), holds, kind)

    def _best_keys(
        self,
        queries_rot: tf.Tensor,
        first_query: tf.Tensor,
        k: tf.Tensor,
        n_probes: tf.Tensor,
        exclude: _IdLists,
        allow: _IdLists,
    ) -> tf.Tensor:
        """(n_queries, k) int64 keys of a block of queries, falling; _NO_KEY beyond the results."""
        lists, list_terms = self._visited_lists(queries_rot, n_probes)
        visits = self._visits(lists)
        is_eligible = self._eligible(visits, first_query, exclude, allow)
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
            keys = self._keys_of_list(visited[i], queries, terms)
            keys = tf.cond(
                tf.equal(tf.size(is_eligible), 0),
                lambda: keys,
                lambda: self._keep(keys, is_eligible, visits, members[0]),
            )
            return i + 1, parts.write(i + 1, _largest(keys, k_of_visit))

        _, parts = tf.while_loop(
            lambda i, _: i < tf.size(visited), scan_list, (0, parts), parallel_iterations=1
        )
        # What is of list after list, back in the order of queries.
        places = tf.math.invert_permutation(visits.order)
        keys = tf.gather(tf.ensure_shape(parts.concat(), (None, None)), places)
        shape = tf.stack([tf.shape(lists)[0], n_probes * k_of_visit])
        return _largest(tf.reshape(keys, shape), k)

    def _visits(self, lists: tf.Tensor) -> _Visits:
        flat = tf.reshape(lists, (-1,))
        order = tf.argsort(flat, stable=True)
        sizes = tf.gather(self.list_offsets, flat + 1) - tf.gather(self.list_offsets, flat)
        starts = tf.cumsum(tf.gather(sizes, order), exclusive=True)
        starts = tf.scatter_nd(order[:, None], starts, tf.shape(flat))
        return _Visits(lists, tf.reshape(starts, tf.shape(lists)), order, tf.reduce_sum(sizes))

    def _keys_of_list(
        self, list_id: tf.Tensor, queries_rot: tf.Tensor, list_terms: tf.Tensor
    ) -> tf.Tensor:
        """(n_queries, items of the list) int64 keys, in order of row."""
        rows = slice(self.list_offsets[list_id], self.list_offsets[list_id + 1])
        scores = tf.matmul(queries_rot, self._decoded(rows), transpose_b=True)
        scores += list_terms[:, None]
        if self.params.metric == "cosine":
            scores *= self.item_terms[rows]
        if self.params.metric == "l2":
            scores += self.item_terms[rows]
        if self.has_twins:
            scores = tf.gather(scores, self.twin_of_row[rows] - rows.start, axis=1)
        return _keys(scores, self.rank_of_row[rows])

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

    def _keep(
        self, keys: tf.Tensor, is_eligible: tf.Tensor, visits: _Visits, first_visit: tf.Tensor
    ) -> tf.Tensor:
        """The keys of a list, those not eligible replaced by _NO_KEY."""
        start = tf.reshape(visits.starts, (-1,))[first_visit]
        kept = tf.reshape(is_eligible[start : start + tf.size(keys)], tf.shape(keys))
        return tf.where(kept, keys, _NO_KEY)

    def _eligible(
        self, visits: _Visits, first_query: tf.Tensor, exclude: _IdLists, allow: _IdLists
    ) -> tf.Tensor:
        """(n_candidates,) bool, list by list; (0,) where all are."""

        def filtered() -> tf.Tensor:
            is_allowed = tf.equal(allow.kind, 0) | self._listed(visits, allow, first_query)
            return is_allowed & ~self._listed(visits, exclude, first_query)

        nothing = tf.equal(exclude.kind, 0) & tf.equal(allow.kind, 0)
        return tf.cond(nothing, lambda: tf.zeros((0,), tf.bool), filtered)

    def _visited_lists(
        self, queries_rot: tf.Tensor, n_probes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best lists (n_queries, n_probes) int32, and their terms in the scores of items."""
        centroids = self.coarse_centroids.read_value()
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

    def _listed(self, visits: _Visits, id_lists: _IdLists, first_query: tf.Tensor) -> tf.Tensor:
        """(n_candidates,) bool, list by list: whether the list of the query holds the item."""
        return tf.switch_case(
            id_lists.kind,
            [
                lambda: tf.zeros((visits.n_candidates,), tf.bool),
                lambda: tf.gather(id_lists.holds, self._rows(visits)),
                lambda: self._listed_by_query(visits, id_lists, first_query),
            ],
        )

    def _rows(self, visits: _Visits) -> tf.Tensor:
        """(n_candidates,) int32 rows, list by list."""
        lists = tf.gather(tf.reshape(visits.lists, (-1,)), visits.order)
        starts, stops = (tf.gather(self.list_offsets, lists + i) for i in (0, 1))
        return tf.ragged.range(starts, stops).flat_values

    def _listed_by_query(
        self, visits: _Visits, id_lists: _IdLists, first_query: tf.Tensor
    ) -> tf.Tensor:
        """:meth:`_listed` by way of the few ids in the lists, not of the many candidates."""
        n_queries, n_probes = tf.unstack(tf.shape(visits.lists))
        offsets = id_lists.offsets[first_query : first_query + n_queries + 1]
        rows = id_lists.rows[offsets[0] : offsets[-1]]
        queries = tf.searchsorted(offsets - offsets[0], tf.range(tf.size(rows)), "right") - 1
        lists = tf.searchsorted(self.list_offsets[1:-1], rows, "right")
        # Where a query's visit to each list starts among the candidates, −1 without a visit.
        visitors = tf.broadcast_to(tf.range(n_queries)[:, None], (n_queries, n_probes))
        starts = tf.tensor_scatter_nd_update(
            tf.fill((n_queries, self.params.n_lists), -1),
            tf.stack([visitors, visits.lists], 2),
            visits.starts,
        )
        starts = tf.gather_nd(starts, tf.stack([queries, lists], 1))
        places = starts + rows - tf.gather(self.list_offsets, lists)
        # One place more, for ids that are not among the candidates.
        n_candidates = visits.n_candidates
        places = tf.where((rows >= 0) & (starts >= 0), places, n_candidates)[:, None]
        listed = tf.zeros((n_candidates + 1,), tf.bool)
        return tf.tensor_scatter_nd_update(listed, places, tf.ones_like(rows, tf.bool))[:-1]

    def _from_keys(self, keys: tf.Tensor) -> CountedTopK:
        """The results that (n_queries, k) keys stand for."""
        is_result = tf.not_equal(keys, _NO_KEY)
        high = tf.cast(tf.bitwise.right_shift(keys, tf.constant(32, tf.int64)), tf.int32)
        scores = tf.where(is_result, tf.bitcast(_ordered(high), tf.float32), -np.inf)
        ranks = _LOW_BITS - tf.bitwise.bitwise_and(keys, tf.constant(2**32 - 1, tf.int64))
        item_ids = tf.gather(self.sorted_ids, tf.where(is_result, ranks, self.n_items))
        return CountedTopK(scores, item_ids, tf.reduce_sum(tf.cast(is_result, tf.int64), axis=1))


def _keys(scores: tf.Tensor, ranks: tf.Tensor) -> tf.Tensor:
    """Int64 that rise with the (n, m) scores, and among equal scores fall with the (m,) ranks."""
    scores = tf.where(tf.equal(scores, 0), 0.0, scores)  # −0 is 0
    high = tf.cast(_ordered(tf.bitcast(scores, tf.int32)), tf.int64) * 2**32
    return high + tf.cast(_LOW_BITS - ranks, tf.int64)


def _largest(keys: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """(n, k) of the (n, m) keys, falling, filled up with _NO_KEY where k is more than m."""
    missing = tf.maximum(0, k - tf.shape(keys)[1])
    padded = tf.cond(
        missing > 0,
        lambda: tf.pad(keys, [[0, 0], [0, missing]], constant_values=_NO_KEY),
        lambda: keys,
    )
    return tf.math.top_k(padded, k).values


def _flat_ids(name: str, given: Any, n_queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Values and offsets, as :meth:`IVFPQTopK._search` takes them, of what a call was given."""
    if given is None:
        return tf.zeros((0,), tf.int64), tf.zeros((1,), tf.int64)
    if isinstance(given, tuple):
        values, offsets = (tf.cast(tf.convert_to_tensor(part), tf.int64) for part in given)
        return values, offsets
    is_ragged = isinstance(given, tf.RaggedTensor)
    given = given if is_ragged else tf.convert_to_tensor(given)
    if not given.dtype.is_integer:
        raise TypeError(f"{name}: expected integers, got {given.dtype.name}")
    if given.shape.rank != (2 if is_ragged else 1):
        raise ValueError(
            f"{name}: expected a ragged (n_queries, None) or a (n_ids,) tensor, got {given.shape}"
        )
    given = tf.cast(given, tf.int64)
    if not is_ragged:
        return given, tf.stack([0, tf.size(given, tf.int64)])
    n_lists = given.nrows(tf.int64)
    message = f"{name}: expected as many lists as queries"
    with tf.control_dependencies([tf.debugging.assert_equal(n_lists, n_queries, message)]):
        return given.values, tf.cast(tf.identity(given.row_splits), tf.int64)


def _relevance(found: CountedTopK, targets: tf.Tensor | None) -> Prediction:
    """Scores, finite, and whether each place holds the query's target, (n_queries, k) float32."""
    if targets is None:
        raise ValueError("targets: expected the item id of each query in evaluation, got None")
    if isinstance(targets, tf.RaggedTensor):
        mask = targets._keras_mask.with_row_splits_dtype(targets.row_splits.dtype)
        targets = tf.ragged.boolean_mask(targets, mask).to_tensor()
    targets = tf.reshape(tf.cast(targets, tf.int64), (-1, 1))
    is_result = tf.sequence_mask(found.counts, tf.shape(found.scores)[1])
    is_target = tf.equal(found.identifiers, targets) & is_result
    # A loss that multiplied −inf by 0 would be NaN.
    scores = tf.maximum(found.scores, tf.float32.min)
    return Prediction(scores, tf.cast(is_target, tf.float32))


def _ordered(bits: tf.Tensor) -> tf.Tensor:
    """Bits of float32 as int32 that sort as the floats do; and back again."""
    signs = tf.bitwise.right_shift(bits, tf.constant(31, tf.int32))
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(signs, 2**31 - 1))


def _twin_of_row(index: Index) -> Int32:
    """(n_items,) int32, the first row with the same list and codes as the row; itself mostly."""
    kinds = np.column_stack([index.list_ids, index.packed_codes.astype(np.int32)])
    _, firsts, kind_of_row = np.unique(kinds, axis=0, return_index=True, return_inverse=True)
    return np.asarray(firsts[kind_of_row.reshape(-1)], np.int32)


def _origin(quantization: Quantization) -> Float32:
    """(dim,) float32, rotated space: the middle of what is scored; l2 does not depend on it."""
    if quantization.encodes_residual:
        return np.asarray(quantization.coarse_centroids.mean(axis=0), np.float32)
    return np.asarray(quantization.codebook.mean(axis=1).reshape(-1), np.float32)


def _item_terms(index: Index, origin: Float32) -> Float32:
    """(n_items,) float32. Cosine: 1/‖x̂‖. l2, with r = x̂ − c: −‖r‖² − 2⟨r, c − origin⟩.

    Without residuals c is the origin.
    """
    quantization = index.quantization
    terms = np.empty(index.n_items, np.float32)
    step = max(1, reference.CHUNK_BYTES // (8 * index.dim))
    for start in range(0, index.n_items, step):
        rows = slice(start, start + step)
        list_ids = index.list_ids[rows]
        decoded = reference.decode_rotated(quantization, list_ids, index.codes[rows])
        if index.params.metric == "cosine":
            norms = np.linalg.norm(decoded, axis=1)
            terms[rows] = 1 / np.where(norms > 0, norms, 1)
            continue
        centres = (
            quantization.coarse_centroids[list_ids] if quantization.encodes_residual else origin
        )
        residuals = (decoded - centres).astype(np.float64)
        terms[rows] = -(residuals * (residuals + 2 * (centres - origin))).sum(axis=1)
    return terms
