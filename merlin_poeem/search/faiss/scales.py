"""Scores s · ⟨q, x̂⟩, where Faiss can only add."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.fit import import_faiss
from merlin_poeem.quantization.item_codes import N_SCALES, Quantization
from merlin_poeem.search.faiss.batch import Batch
from merlin_poeem.search.faiss.portions import blocks
from merlin_poeem.search.faiss.targets import Targets

# How far the expected score may be off, as a part of it, for items with odd scales to be found.
MARGIN = 0.3
# Below this, a shift would only cost digits.
LOWEST_SHIFT = -16
# What a scan's sum is rounded by, as a part of the sizes of its terms.
ROUNDING = 4e-7
# Results of the first scan beyond k: a share for each part that scales are spread by, within limits
# (of item towers' catalogs, 1 query in 50 then scans again), and a few for small k.
SHARE_OF_SPREAD = 10
SHARES = (0.25, 2)
FEW = 8
# Queries whose tables lie in the cache together; and the width of a subspace from which Faiss fills
# them by a matrix product, whose last digits depend on how many queries there are.
QUERIES_AT_A_TIME = 32
PRODUCT_LEN = 16


class Scales:
    """Products with the items' scales from the sums that Faiss scans for.

    The scale's code is that of one more subspace. Its codewords are (shift, 0, …), and a query has
    (t, 0, …) there, so that Faiss ranks by f = ⟨q, x̂⟩ + shift · t. With r = s / s₀, where s₀ is the
    usual scale, and a shift of 1 − 1 / r, those items have f > t that have s · ⟨q, x̂⟩ > s₀ t: few
    more than k results hold the best k where s₀ t is about the k-th score. See ``_shifts``.

    Scores are computed anew, from the codes of what was found. They do not depend on t, which is
    another one in each part of a catalog: parts have to score their items alike, to the bit.
    """

    def __init__(self, index: Index, scales: NDArray[np.uint8]) -> None:
        """``scales`` are those of the ``index``."""
        self._index, self._scales = index, scales
        self._faiss = import_faiss()
        table = index.quantization.scale_table
        present = np.bincount(scales, minlength=N_SCALES) > 0
        self._usual, spread = _usual(table, scales)
        self._share = float(np.clip(SHARE_OF_SPREAD * spread, *SHARES))
        shifts = _shifts(table / self._usual)
        self.quantization = _with_subspace(index.quantization, shifts)
        self._present: Float32 = table[present]
        # Rounding is on the side of the items that were not returned.
        shifts -= ROUNDING * np.abs(shifts)
        self._present_shifts: Float32 = self._present * shifts[present]
        self._targets = Targets(index)
        self._column = self.quantization.dim - self.quantization.pq_len
        self._pq = _product_quantizer(self.quantization)

    def first_width(self, k: int) -> int:
        """How many results are likely to settle k."""
        return k + int(k * self._share) + FEW

    def packed_codes(self, rows: slice) -> NDArray[np.unsignedinteger]:
        """Codes of ``rows`` in :attr:`quantization`."""
        packed = self._index.packed_codes[rows]
        return np.concatenate([packed, self._scales[rows, None]], axis=1, dtype=packed.dtype)

    def widen(self, queries: Float32) -> Float32:
        """Rotated ``queries`` (n, dim) in the space of :attr:`quantization`; t is 0 still."""
        wide = np.zeros((len(queries), self.quantization.dim), np.float32)
        wide[:, : queries.shape[1]] = queries
        return wide

    def aim(self, batch: Batch, k: int) -> None:
        """Set each query's t to what its k-th item is expected to have, in place."""
        found = self._targets.find(batch.queries_rot, batch.probes, batch.list_scores, k)
        batch.queries_rot[:, self._column] = found

    def aim_at(self, batch: Batch, queries: Int64, scores: Float32) -> None:
        """The same from what was found: ``queries``' k-th ``scores`` so far, −inf where none."""
        told = scores > -np.inf
        targets = np.maximum(scores[told], 0) / self._usual
        batch.queries_rot[queries[told], self._column] = targets

    def of(self, batch: Batch, scores: Float32, rows: Int64) -> Float32:
        """Scores of the items in ``rows``, (n, width); −inf where ``scores`` are."""
        exact: Float32 = np.empty(rows.shape, np.float32)
        if self._index.n_items:
            quantization, width = self.quantization, rows.shape[1]
            tables = 4 * quantization.pq_dim * quantization.pq_book_size
            sums = 16 * quantization.pq_dim * width
            for block in blocks(len(rows), tables + sums, QUERIES_AT_A_TIME):
                exact[block] = self._products(batch.queries_rot[block], rows[block])
            exact *= self._index.quantization.scale_table[self._scales[rows]]
        exact[scores == -np.inf] = -np.inf
        return exact

    def bound(self, batch: Batch, scores: Float32) -> Float32:
        """(n,): no item whose f is at most that of ``scores`` (n,) scores more.

        The largest that any scale of the index makes of it.
        """
        if not len(self._present):
            return scores
        finite = np.where(scores > -np.inf, scores, 0)
        highest = (finite + ROUNDING * np.abs(finite))[:, None] * self._present
        shifted = batch.queries_rot[:, self._column, None] * self._present_shifts
        return np.asarray((highest - shifted).max(axis=1), np.float32)

    def _products(self, queries: Float32, rows: Int64) -> Float32:
        """⟨q, x̂⟩ of widened queries (n, dim) with the items in their ``rows``, (n, width)."""
        quantization = self.quantization
        tables = self._tables(queries)
        # One subspace fewer: the last one is the scale's.
        of_subspaces = np.arange(quantization.pq_dim - 1) * quantization.pq_book_size
        of_queries = np.arange(len(queries)) * (quantization.pq_dim * quantization.pq_book_size)
        codes = self._index.packed_codes.take(rows.ravel(), axis=0).reshape(*rows.shape, -1)
        places = codes + (of_queries[:, None, None] + of_subspaces)
        values = tables.ravel()[places].reshape(-1, places.shape[-1])
        products: Float32 = np.einsum("nm->n", values).reshape(rows.shape)
        if quantization.encodes_residual:
            products += self._list_products(queries, self._index.list_ids[rows])
        return products

    def _tables(self, queries: Float32) -> Float32:
        """⟨q_m, codeword⟩ of widened queries, (n, pq_dim, pq_book_size)."""
        faiss, quantization = self._faiss, self.quantization
        shape = (len(queries), quantization.pq_dim, quantization.pq_book_size)
        tables: Float32 = np.empty(shape, np.float32)
        step = len(queries) if quantization.pq_len < PRODUCT_LEN else 1
        for start in range(0, len(queries), max(step, 1)):
            block = slice(start, start + step)
            pointers = map(faiss.swig_ptr, (queries[block], tables[block]))
            self._pq.compute_inner_prod_tables(step, *pointers)
        return tables

    def _list_products(self, queries: Float32, list_ids: NDArray[np.int32]) -> Float32:
        """⟨q, c⟩ of each query's ``list_ids``, shape of ``list_ids``."""
        faiss, centroids = self._faiss, self.quantization.coarse_centroids
        products: Float32 = np.empty(list_ids.shape, np.float32)
        arrays = (products, queries, centroids, list_ids.astype(np.int64))
        faiss.fvec_inner_products_by_idx(
            *map(faiss.swig_ptr, arrays), centroids.shape[1], *list_ids.shape
        )
        return products


def _usual(table: Float32, scales: NDArray[np.uint8]) -> tuple[np.float32, float]:
    """The median scale of the items that have one, 1 where none has, and their deviation from it.

    The latter as a part of the median, from quartiles, so that few odd scales do not decide it.
    """
    scaled = table[scales[scales > 0]]
    if not len(scaled):
        return np.float32(1), 0.0
    low, median, high = np.quantile(scaled, [0.25, 0.5, 0.75])
    return np.float32(median), float((high - low) / (1.35 * median))


def _shifts(ratios: Float32) -> Float32:
    """(256,) float32, of scales that are ``ratios`` times the usual one.

    1 − 1 / r, and more for r > 1, less for r < 1: r − 1 while r is near 1. An item that just
    reaches the k-th score then has f > t also where t is not that score, the surer the farther r
    is from 1, up to ``MARGIN``.
    """
    above = np.maximum(ratios, np.finfo(np.float32).tiny)
    shifts = (1 - 1 / above.astype(np.float64)) * np.clip(ratios, 1 - MARGIN, 1 + MARGIN)
    return np.asarray(np.maximum(shifts, LOWEST_SHIFT), np.float32)


def _with_subspace(quantization: Quantization, shifts: Float32) -> Quantization:
    """``quantization`` with one more subspace, whose codewords are (shift, 0, …): not rotated."""
    codebook = _of_bytes(quantization)
    _, book_size, pq_len = codebook.shape
    last = np.zeros((1, book_size, pq_len), np.float32)
    last[0, : len(shifts), 0] = shifts
    codebook = np.concatenate([codebook, last])
    more = len(codebook) * pq_len - quantization.dim
    centroids = np.pad(quantization.coarse_centroids, ((0, 0), (0, more)))
    return Quantization(centroids, codebook, None, quantization.encodes_residual)


def _of_bytes(quantization: Quantization) -> Float32:
    """The codebook for codes of at least a byte, which a scale takes.

    Two codes of 4 bits, packed, are one of 8 in a subspace of twice the width. Others below 8 take
    a byte each. Faiss scans either about twice as fast as codes of fewer bits (1M x 64, 16 codes).
    """
    codebook = quantization.codebook
    if quantization.pq_bits == 4:
        codebook = np.pad(codebook, ((0, len(codebook) % 2), (0, 0), (0, 0)))
        codes = np.arange(256)
        halves = codebook[0::2, codes & 15], codebook[1::2, codes >> 4]
        return np.concatenate(halves, axis=2)
    return np.pad(codebook, ((0, 0), (0, max(0, N_SCALES - codebook.shape[1])), (0, 0)))


def _product_quantizer(quantization: Quantization) -> Any:
    faiss = import_faiss()
    pq = faiss.ProductQuantizer(quantization.dim, quantization.pq_dim, quantization.pq_bits)
    faiss.copy_array_to_vector(quantization.codebook.ravel(), pq.centroids)
    return pq
