"""What score a query's k-th best item will have, told before the scan from its lists alone."""

from __future__ import annotations

import numpy as np

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.item_codes import unpack_codes
from merlin_poeem.search.faiss.portions import blocks

# The range of scores is narrowed to 1 part in 4,096: in 12 halvings, or, for few queries, where the
# calls of NumPy take longer than what they compute, in 3 steps to a sixteenth.
HALVINGS = 12
SIXTEENTHS = 3
FEW_QUERIES = 8
# Of a normal distribution, what lies beyond this many deviations is no item.
FARTHEST = 6
# The logistic curve is this many times as steep as the normal one that it stands for.
STEEPNESS = 1.7
# Below this part of the range of scores a list's items have one score.
NARROWEST = 1e-6


class Targets:
    """Finds the score t that about k of the visited items exceed.

    A list's ⟨q, x̂⟩ lie around its ⟨q, c⟩, and are taken to be as spread in every direction as its
    items are in all: then their numbers beyond t are known for any t. It is an estimate: the scan
    takes the longer the worse it is, but finds the same.
    """

    def __init__(self, index: Index) -> None:
        self._sizes: Int64 = index.list_sizes
        self._deviations = _deviations(index)

    def find(self, queries: Float32, probes: Int64, list_scores: Float32, k: int) -> Float32:
        """(n,) float32, none below 0; queries (n, dim), their lists and ⟨q, c⟩ (n, n_probes)."""
        lengths = np.sqrt(np.einsum("nd,nd->n", queries, queries))[:, None]
        deviations = self._deviations[probes] * lengths
        low = (list_scores - FARTHEST * deviations).min(axis=1, keepdims=True)
        high = (list_scores + FARTHEST * deviations).max(axis=1, keepdims=True)
        # Never 0, where all that is visited is alike.
        narrowest = NARROWEST * (high - low) + np.finfo(np.float32).tiny
        steepness = STEEPNESS / np.maximum(deviations, narrowest)
        sizes = self._sizes[probes].astype(np.float32)
        is_few = len(queries) <= FEW_QUERIES
        n_parts, n_steps = (16, SIXTEENTHS) if is_few else (2, HALVINGS)
        inner = np.arange(1, n_parts, dtype=np.float32)
        for _ in range(n_steps):
            part = (high - low) / n_parts
            tried = (low + part * inner)[:, :, None]
            steps = (tried - list_scores[:, None]) * steepness[:, None]
            np.minimum(np.maximum(steps, -20, out=steps), 20, out=steps)
            np.exp(steps, out=steps)
            expected = (sizes[:, None] / (1 + steps)).sum(axis=2)
            # The fewer, the higher what was tried: the first parts have too many.
            low = low + part * (expected > k).sum(axis=1, keepdims=True)
            high = low + part
        return np.asarray(np.maximum(low, 0)[:, 0], np.float32)


def _deviations(index: Index) -> Float32:
    """(n_lists,): how far a list's items are from its centroid along one axis, in the mean."""
    quantization = index.quantization
    of_codewords = (quantization.codebook.astype(np.float64) ** 2).sum(axis=2)
    squares = np.empty(index.n_items)
    for block in blocks(index.n_items, 16 * index.params.pq_dim):
        packed = index.packed_codes[block]
        codes = unpack_codes(packed, index.params.pq_dim, index.params.pq_bits)
        squares[block] = of_codewords[np.arange(index.params.pq_dim), codes].sum(axis=1)
    means = np.zeros(index.n_lists)
    filled = np.flatnonzero(index.list_sizes)
    if len(filled):
        means[filled] = np.add.reduceat(squares, index.list_offsets[filled])
        means[filled] /= index.list_sizes[filled]
    if not quantization.encodes_residual:
        # Codes of the items themselves: about a mean, their squares are what is beyond the mean's.
        centroids = quantization.coarse_centroids.astype(np.float64)
        means = np.maximum(means - (centroids**2).sum(axis=1), 0)
    return np.asarray(np.sqrt(means / index.dim), np.float32)
