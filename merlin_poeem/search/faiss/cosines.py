"""Cosines with the reconstructions, where Faiss ranks by distance alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import Quantization, unpack_codes
from merlin_poeem.quantization.lengths import lengths_of, typical_length
from merlin_poeem.search.faiss.batch import Batch
from merlin_poeem.search.faiss.portions import blocks

# The cosine at which few more results than k are needed.
EXPECTED_COSINE = 0.5
# What a distance is rounded by, as a part of (s + ‖x̂‖)², and the most that a cosine may be.
DISTANCE_ROUNDING = 1e-6
MOST_ROUNDING = 8e-6


class Cosines:
    """Cosines from the distances that Faiss scans for.

    Faiss keeps no norm of an item, and so can't rank by ⟨q, x̂⟩ / ‖x̂‖. It ranks by the distance of
    x̂ to the query scaled to length s, where cos = (s² + ‖x̂‖² − distance) / (2 s ‖x̂‖). At one
    distance that depends little on ‖x̂‖ around s · cos: few more than k distances settle k cosines,
    several times fewer than inner products would.

    Items many times shorter or longer than s are odd: their distances do not tell their cosines,
    which are computed from their reconstructions.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        typical = np.float32(_typical_norm(index.quantization))
        self.scale: np.float32 = np.float32(typical / EXPECTED_COSINE)
        self._norms: Float32 = np.empty(index.n_items, np.float32)
        for block in blocks(index.n_items, 16 * index.dim):
            self._norms[block] = lengths_of(self._decode(block))
        zero = self._norms == 0
        # The cosine with nothing is 0; otherwise the bound below is of norms above 0.
        self._lowest_bound = 0 if zero.any() else -np.inf
        norms = np.where(zero, typical, self._norms)
        self._odd: NDArray[np.bool_] = self._rounding(norms) > MOST_ROUNDING
        self._any_is_odd = bool(self._odd.any())
        self._shortest: Float32 = np.full(index.n_lists, typical, np.float32)
        self._longest: Float32 = np.full(index.n_lists, typical, np.float32)
        filled = np.flatnonzero(index.list_sizes)
        if len(filled):
            self._shortest[filled] = np.minimum.reduceat(norms, index.list_offsets[filled])
            self._longest[filled] = np.maximum.reduceat(norms, index.list_offsets[filled])

    def of(self, batch: Batch, scores: Float32, rows: Int64) -> Float32:
        """Cosines of the items in ``rows``; scores −distance, both (n, width). −inf stays."""
        if not len(self._norms):
            return scores
        cosines = self._from_distances(batch, scores, self._norms[rows])
        if self._any_is_odd:
            self._set_odd(batch, rows, cosines)
        return cosines

    def bound(self, batch: Batch, scores: Float32) -> Float32:
        """(n,): no item of the visited lists at this distance or beyond it has more cosine."""
        ends = (self._shortest[batch.probes].min(axis=1), self._longest[batch.probes].max(axis=1))
        # Convex in the norm, as is the rounding, so that the largest is at an end.
        largest = np.maximum(
            *(
                self._from_distances(batch, scores[:, None], end[:, None])[:, 0]
                + self._rounding(end)
                for end in ends
            )
        )
        return np.asarray(np.maximum(largest, self._lowest_bound), np.float32)

    def _from_distances(self, batch: Batch, scores: Float32, norms: Float32) -> Float32:
        lengths = np.einsum("nd,nd->n", batch.queries_rot, batch.queries_rot)[:, None]
        inner_products = (lengths + norms**2 + scores) / (2 * self.scale)
        # With a query or an item of zeros it is 0 exactly: rounding must not make an order.
        nothing = ((lengths == 0) | (norms == 0)) & (scores > -np.inf)
        inner_products[nothing] = 0
        return np.asarray(inner_products / np.where(norms > 0, norms, 1), np.float32)

    def _rounding(self, norms: Float32) -> NDArray[np.float64]:
        """Of the cosine that a distance tells with ``norms`` above 0: (s + ‖x̂‖)² / (2 s ‖x̂‖)."""
        ratios = norms / np.float64(self.scale)
        return np.asarray(DISTANCE_ROUNDING * (ratios + 2 + 1 / ratios) / 2)

    def _set_odd(self, batch: Batch, rows: Int64, cosines: Float32) -> None:
        """Put the cosines of odd items in their places, ⟨q, x̂⟩ / ‖x̂‖."""
        queries, columns = np.nonzero(self._odd[rows] & (rows >= 0))
        for block in blocks(len(queries), 16 * self._index.dim):
            query, column = queries[block], columns[block]
            odd = rows[query, column]
            products = (batch.queries_rot[query] * self._decode(odd)).sum(axis=1)
            cosines[query, column] = products / self.scale / self._norms[odd]

    def _decode(self, rows: Int64 | slice) -> Float32:
        index = self._index
        codes = unpack_codes(index.packed_codes[rows], index.params.pq_dim, index.params.pq_bits)
        return coding.decode_rotated(index.quantization, index.list_ids[rows], codes)


def _typical_norm(quantization: Quantization) -> float:
    """Of a reconstruction, as if all lists and codewords were as frequent.

    Not that of the items: parts of one catalog have to score their items alike, to the bit.
    """
    lengths = [typical_length(codewords) for codewords in quantization.codebook]
    if quantization.encodes_residual:
        lengths.append(typical_length(quantization.coarse_centroids))
    return math.hypot(*lengths) or 1.0
