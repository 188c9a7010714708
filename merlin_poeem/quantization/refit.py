"""Codewords moved to the middle of what they stand for in a catalog."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import LARGEST_VALUE, Float32, as_vectors
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import positive_int

ROUNDS = 16
CHUNK_BYTES = 64 << 20


def refit(
    quantization: Quantization, vectors: Float32, *, weights: Any = None, rounds: int = ROUNDS
) -> Quantization:
    """The same lists and rotation, with a codebook that fits ``vectors`` better.

    Rounds of Lloyd's algorithm, from the codewords that there are: each moves to the mean of the
    residuals that it is the nearest to. One that is the nearest to none stays. A codebook that was
    trained on batches follows the latest of them, and is a little behind the catalog.

    Parameters
    ----------
    vectors
        (n, dim) float32, raw space; of unit length where the metric is cosine. A sample of 256 for
        each codeword is enough, all are better.
    weights
        (n,) how much each vector counts, such as how often its item is wanted; None: all alike.
    rounds
        16 are near the end of what there is to gain.

    Returns
    -------
    Quantization
        Its scale range is that of ``quantization``.

    Raises
    ------
    TypeError, ValueError
        Vectors that an index would refuse, none of them; weights of another number, below 0, or
        that are not finite or all 0.
    """
    vectors = as_vectors("vectors", vectors, quantization.dim, largest=LARGEST_VALUE)
    rounds = positive_int("rounds", rounds)
    if not len(vectors):
        raise ValueError("vectors: expected at least one, got none")
    counts = _checked_weights(weights, len(vectors))
    targets = quantization.rotate(vectors)
    if quantization.encodes_residual:
        list_ids, _ = coding.encode(quantization, vectors)
        targets = targets - quantization.coarse_centroids[list_ids]
    subvectors = targets.reshape(len(vectors), quantization.pq_dim, quantization.pq_len)
    codebook = quantization.codebook.copy()
    for m in range(quantization.pq_dim):
        for _ in range(rounds):
            codebook[m] = _moved(codebook[m], subvectors[:, m], counts)
    return replace(quantization, codebook=codebook)


def _checked_weights(weights: Any, n: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(n)
    counts = np.asarray(weights, np.float64)
    if counts.shape != (n,):
        raise ValueError(f"weights: expected shape ({n},), one a vector; got {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
        raise ValueError("weights: expected finite numbers of at least 0, and not all of them 0")
    return counts


def _moved(codewords: Float32, vectors: Float32, counts: NDArray[np.float64]) -> Float32:
    """(pq_book_size, pq_len) codewords, moved once."""
    k = len(codewords)
    totals, sums = np.zeros(k), np.zeros(codewords.shape)
    rows = max(1, CHUNK_BYTES // (8 * k))
    for start in range(0, len(vectors), rows):
        part, of_part = vectors[start : start + rows], counts[start : start + rows]
        codes = coding.nearest(part, codewords)
        totals += np.bincount(codes, of_part, k)
        sums += np.stack([np.bincount(codes, of_part * each, k) for each in part.T], axis=1)
    means = sums / np.where(totals > 0, totals, 1)[:, None]
    return np.where(totals[:, None] > 0, means, codewords).astype(np.float32)
