"""What a search in the TensorFlow graph keeps of an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int32
from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import N_SCALES
from merlin_poeem.quantization.origin import middle_of
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.quantization.stored_vectors import VectorDtype

FILL_ID = 2**63 - 1
"""The id in the places of a row that lie beyond its count; the score there is −inf."""


@dataclass(frozen=True)
class Kind:
    """What an index has, of what not every one does."""

    rotation: bool = False
    twins: bool = False
    scales: bool = False
    list_factors: bool = False
    vectors: VectorDtype | None = None


@dataclass(frozen=True, eq=False)
class GraphState:
    """An index as tensors or variables, of what :func:`arrays_of` returns, in rotated space."""

    params: IVFPQParams
    encodes_residual: bool

    coarse_centroids: tf.Tensor
    """(n_lists, dim) float32."""

    codebook: tf.Tensor
    """(pq_dim, pq_book_size, pq_len) float32; under l2 without residuals less the origin."""

    list_offsets: tf.Tensor
    """(n_lists + 1,) int32."""

    packed_codes: tf.Tensor
    """(n_items, width) uint8 or uint16, as stored."""

    sorted_ids: tf.Tensor
    """(n_items + 1,) int64, rising: by rank. At the end ``FILL_ID``, of no row."""

    rank_of_row: tf.Tensor
    """(n_items,) int32."""

    row_of_rank: tf.Tensor
    """(n_items + 1,) int32; at the end −1."""

    rotation: Any = None
    """(dim, dim) float32."""

    item_terms: Any = None
    """(n_items,) float32, under l2, and cosine without scales, else None: :func:`_item_terms`."""

    scales: Any = None
    """(n_items,) uint8, where items have scales."""

    scale_table: Any = None
    """(256,) float32, where items have scales."""

    list_factors: Any = None
    """(n_lists,) float32, where the index has some."""

    origin: Any = None
    """(dim,) float32, under l2, else None: where codes and vectors are counted from."""

    twin_of_row: Any = None
    """(n_items,) int32, where items share list and codes: the first row with those of the row."""

    vectors: Any = None
    """(n_items, dim) float16 or int8, where the index has vectors: see
    :class:`~merlin_poeem.quantization.stored_vectors.StoredVectors`."""

    vector_scales: Any = None
    """(n_items,) float32, where the index has vectors."""

    @property
    def n_lists(self) -> int:
        """Lists, empty ones included."""
        return self.params.n_lists

    @property
    def n_items(self) -> tf.Tensor:
        """() int32, items held."""
        return tf.size(self.rank_of_row)

    @property
    def dim(self) -> int:
        """Width of queries."""
        return int(self.coarse_centroids.shape[1])


def state_specs(
    params: IVFPQParams, dim: int, kind: Kind, *, n_items: int | None = None
) -> dict[str, tf.TensorSpec]:
    """Shape and dtype of all in the state of such an index; ``n_items`` None is any number."""
    with_end = None if n_items is None else n_items + 1
    width = -(-params.pq_dim // 2) if params.pq_bits == 4 else params.pq_dim
    code_dtype = tf.uint8 if params.pq_bits <= 8 else tf.uint16
    books = (params.pq_dim, params.pq_book_size, params.pq_len(dim))
    specs = {
        "coarse_centroids": tf.TensorSpec((params.n_lists, dim)),
        "codebook": tf.TensorSpec(books),
        "list_offsets": tf.TensorSpec((params.n_lists + 1,), tf.int32),
        "packed_codes": tf.TensorSpec((n_items, width), code_dtype),
        "sorted_ids": tf.TensorSpec((with_end,), tf.int64),
        "rank_of_row": tf.TensorSpec((n_items,), tf.int32),
        "row_of_rank": tf.TensorSpec((with_end,), tf.int32),
    }
    if kind.rotation:
        specs["rotation"] = tf.TensorSpec((dim, dim))
    if params.metric == "l2" or (params.metric == "cosine" and not kind.scales):
        specs["item_terms"] = tf.TensorSpec((n_items,))
    if params.metric == "l2":
        specs["origin"] = tf.TensorSpec((dim,))
    if kind.twins:
        specs["twin_of_row"] = tf.TensorSpec((n_items,), tf.int32)
    if kind.scales:
        specs["scales"] = tf.TensorSpec((n_items,), tf.uint8)
        specs["scale_table"] = tf.TensorSpec((N_SCALES,))
    if kind.list_factors:
        specs["list_factors"] = tf.TensorSpec((params.n_lists,))
    if kind.vectors is not None:
        specs["vectors"] = tf.TensorSpec((n_items, dim), kind.vectors)
        specs["vector_scales"] = tf.TensorSpec((n_items,))
    return specs


def arrays_of(index: Index) -> dict[str, NDArray[Any]]:
    """The values of the state of ``index``; without what it has not, such as a rotation."""
    quantization, metric = index.quantization, index.params.metric
    rank_order = np.argsort(index.item_ids, kind="stable")
    rank_of_row = np.empty(index.n_items, np.int32)
    rank_of_row[rank_order] = np.arange(index.n_items, dtype=np.int32)
    arrays = {
        "coarse_centroids": quantization.coarse_centroids,
        "codebook": quantization.codebook,
        "list_offsets": index.list_offsets.astype(np.int32),
        "packed_codes": index.packed_codes,
        "sorted_ids": np.append(index.item_ids[rank_order], FILL_ID),
        "rank_of_row": rank_of_row,
        "row_of_rank": np.append(rank_order, -1).astype(np.int32),
    }
    twin_of_row = _twin_of_row(index)
    if (twin_of_row != np.arange(index.n_items)).any():
        arrays["twin_of_row"] = twin_of_row
    rotation = quantization.rotation_of_queries
    if rotation is not None:
        arrays["rotation"] = rotation
    if index.scales is not None:
        arrays["scales"], arrays["scale_table"] = index.scales, quantization.scale_table
    if index.list_factors is not None:
        arrays["list_factors"] = index.list_factors
    if index.vectors is not None:
        arrays["vectors"], arrays["vector_scales"] = index.vectors.values, index.vectors.row_scales
    if metric == "cosine" and index.scales is None:
        arrays["item_terms"] = _item_terms(index, np.zeros(index.dim, np.float32))
    if metric == "l2":
        origin = middle_of(quantization)
        arrays["origin"], arrays["item_terms"] = origin, _item_terms(index, origin)
        if not quantization.encodes_residual:
            arrays["codebook"] = quantization.codebook - origin.reshape(index.params.pq_dim, 1, -1)
    return arrays


def _twin_of_row(index: Index) -> Int32:
    """(n_items,) int32, the first row with the same list and codes as the row; itself mostly."""
    kinds = np.column_stack([index.list_ids, index.packed_codes.astype(np.int32)])
    _, firsts, kind_of_row = np.unique(kinds, axis=0, return_index=True, return_inverse=True)
    return np.asarray(firsts[kind_of_row.reshape(-1)], np.int32)


def _item_terms(index: Index, origin: Float32) -> Float32:
    """(n_items,) float32. Cosine: 1/‖x̂‖. l2, with r = x̂ − c: −‖r‖² − 2⟨r, c − origin⟩.

    Of an index without scales. Without residuals c is the origin.
    """
    quantization = index.quantization
    terms = np.empty(index.n_items, np.float32)
    step = max(1, coding.CHUNK_BYTES // (8 * index.dim))
    for start in range(0, index.n_items, step):
        rows = slice(start, start + step)
        list_ids, codes, _ = index.coded(rows)
        decoded = coding.decode_rotated(quantization, list_ids, codes)
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
