"""Which answers are certain: the k-th result must beat every item that Faiss has not returned.

For inner products and distances the last score returned bounds all others. Cosines are scanned for
as distances, and bounded by what a distance says of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.search.faiss.batch import Batch
from merlin_poeem.search.faiss.portions import blocks

# The cosine at which few more results than k are needed, and what its rounding may amount to.
EXPECTED_COSINE = 0.5
COSINE_ROUNDING = 2e-6


def settle(
    batch: Batch, scores: Float32, rows: Int64, k: int, cosines: Cosines | None, item_ids: Int64
) -> tuple[Float32, Int64, NDArray[np.bool_]]:
    """Scanned items put in their final order, and for which queries the first k are certain.

    ``scores`` and ``rows`` are those of :meth:`FaissSearcher._scan`, changed in place.
    """
    complete = (rows[:, -1] < 0) | (batch.n_scanned <= rows.shape[1])
    # No item that was not returned scores above the last one that was.
    bound = scores[:, -1].copy()  # what follows moves scores in place
    if cosines is not None:
        bound = cosines.bound(batch, bound)
        scores = cosines.of(batch, scores, rows)
    batch.item_filter.drop_excluded(scores, rows)
    _sort_rows(scores, rows, item_ids)
    if rows.shape[1] < k:
        return scores, rows, complete
    return scores, rows, complete | (scores[:, k - 1] > bound)


class Cosines:
    """Cosines with the reconstructions, from the distances that Faiss scans for.

    Faiss keeps no norm of an item, and so can't rank by ⟨q, x̂⟩ / ‖x̂‖. It ranks by the distance of
    x̂ to the query scaled to length s, where cos = (s² + ‖x̂‖² − distance) / (2 s ‖x̂‖). At one
    distance that depends little on ‖x̂‖ around s · cos: few more than k distances settle k cosines,
    several times fewer than inner products would.
    """

    def __init__(self, index: Index) -> None:
        self._norms: Float32 = np.empty(index.n_items, np.float32)
        codes = index.codes
        for rows in blocks(index.n_items, 16 * index.dim):
            decoded = coding.decode_rotated(index.quantization, index.list_ids[rows], codes[rows])
            self._norms[rows] = np.linalg.norm(decoded, axis=1)
        zero = self._norms == 0
        # The cosine with nothing is 0; otherwise the bound below is of norms above 0.
        self._lowest_bound = 0 if zero.any() else -np.inf
        longest = self._norms.max(initial=0) or np.float32(1)
        norms = np.where(zero, longest, self._norms)
        self._shortest: Float32 = np.full(index.n_lists, longest, np.float32)
        self._longest: Float32 = np.full(index.n_lists, longest, np.float32)
        filled = np.flatnonzero(index.list_sizes)
        if len(filled):
            self._shortest[filled] = np.minimum.reduceat(norms, index.list_offsets[filled])
            self._longest[filled] = np.maximum.reduceat(norms, index.list_offsets[filled])
        self.scale: np.float32 = np.float32(_typical_norm(index.quantization) / EXPECTED_COSINE)

    def of(self, batch: Batch, scores: Float32, rows: Int64) -> Float32:
        """Cosines of the items in ``rows``; scores −distance, both (n, width). −inf stays."""
        if not len(self._norms):
            return scores
        return self._from_distances(batch, scores, self._norms[rows])

    def bound(self, batch: Batch, scores: Float32) -> Float32:
        """(n,): no item of the visited lists at this distance or beyond it has more cosine."""
        ends = (self._shortest[batch.probes].min(axis=1), self._longest[batch.probes].max(axis=1))
        # Convex in the norm, so that the largest is at an end.
        cosines = [self._from_distances(batch, scores[:, None], end[:, None]) for end in ends]
        largest = np.maximum(*cosines)[:, 0] + np.float32(COSINE_ROUNDING)
        return np.asarray(np.maximum(largest, self._lowest_bound), np.float32)

    def _from_distances(self, batch: Batch, scores: Float32, norms: Float32) -> Float32:
        lengths = np.einsum("nd,nd->n", batch.queries_rot, batch.queries_rot)[:, None]
        inner_products = (lengths + norms**2 + scores) / (2 * self.scale)
        # With a query or an item of zeros it is 0 exactly: rounding must not make an order.
        nothing = ((lengths == 0) | (norms == 0)) & (scores > -np.inf)
        inner_products[nothing] = 0
        return np.asarray(inner_products / np.where(norms > 0, norms, 1), np.float32)


def _typical_norm(quantization: Quantization) -> float:
    """Of a reconstruction, as if all lists and codewords were as frequent.

    Not that of the items: parts of one catalog have to score their items alike, to the bit.
    """
    squares = (quantization.codebook.astype(np.float64) ** 2).sum(axis=2).mean(axis=1).sum()
    if quantization.encodes_residual:
        squares += (quantization.coarse_centroids.astype(np.float64) ** 2).sum(axis=1).mean()
    return float(np.sqrt(squares)) or 1.0


def _sort_rows(scores: Float32, rows: Int64, item_ids: Int64) -> None:
    """Sort each query's items in place by falling score, equal scores by item id.

    Only queries that are not strictly falling yet are touched: few, where Faiss' order stands.
    """
    unsorted = _not_falling(scores)
    if len(unsorted):
        order = np.argsort(-scores[unsorted], axis=1)
        _reorder(scores, rows, unsorted, order)
        # By two keys, which is slow, only where there are ties; absent items are no tie.
        tied = unsorted[_not_falling(np.where(rows[unsorted] < 0, np.nan, scores[unsorted]))]
        _reorder(scores, rows, tied, np.lexsort((item_ids[rows[tied]], -scores[tied])))


def _not_falling(scores: Float32) -> Int64:
    return np.flatnonzero((scores[:, 1:] >= scores[:, :-1]).any(axis=1))


def _reorder(scores: Float32, rows: Int64, queries: Int64, order: Int64) -> None:
    scores[queries] = np.take_along_axis(scores[queries], order, axis=1)
    rows[queries] = np.take_along_axis(rows[queries], order, axis=1)
