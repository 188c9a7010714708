"""The NumPy definition of encoding and decoding: vectors to lists and codes, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import LARGEST_VALUE, Float32, Int32, as_vectors, read_only
from merlin_poeem.quantization.item_codes import Quantization

CHUNK_BYTES = 64 << 20


def encode(
    quantization: Quantization, vectors: Float32
) -> tuple[Int32, NDArray[np.unsignedinteger]]:
    """Nearest list and nearest codewords of raw (n, dim) float32 vectors; ties to the lower number.

    Returns read-only ``list_ids`` (n,) int32 and ``codes`` (n, pq_dim), bounded in memory for any
    n.
    ``ValueError`` for values above 1e15 in size: where the metric is cosine, give unit vectors.
    """
    vectors = as_vectors("vectors", vectors, quantization.dim, largest=LARGEST_VALUE)
    widest = max(quantization.n_lists, quantization.pq_book_size, quantization.dim)
    rows = max(1, CHUNK_BYTES // (4 * widest))
    list_ids = np.empty(len(vectors), np.int32)
    codes = np.empty((len(vectors), quantization.pq_dim), quantization.code_dtype)
    for start in range(0, len(vectors), rows):
        chunk = slice(start, start + rows)
        x_rot = quantization.rotate(vectors[chunk])
        list_ids[chunk] = _nearest(x_rot, quantization.coarse_centroids)
        target = x_rot
        if quantization.encodes_residual:
            target = x_rot - quantization.coarse_centroids[list_ids[chunk]]
        subvectors = target.reshape(-1, quantization.pq_dim, quantization.pq_len)
        for m in range(quantization.pq_dim):
            codes[chunk, m] = _nearest(subvectors[:, m], quantization.codebook[m])
    return read_only(list_ids), read_only(codes)


def decode_rotated(
    quantization: Quantization, list_ids: Int32, codes: NDArray[np.unsignedinteger]
) -> Float32:
    """Reconstructions (n, dim) float32 in the ROTATED space."""
    decoded = quantization.codebook[np.arange(quantization.pq_dim), codes]
    decoded = decoded.reshape(len(codes), quantization.dim)
    if quantization.encodes_residual:
        decoded = decoded + quantization.coarse_centroids[list_ids]
    return np.asarray(decoded, np.float32)


def decode(
    quantization: Quantization, list_ids: Int32, codes: NDArray[np.unsignedinteger]
) -> Float32:
    """Reconstructions (n, dim) float32 in the RAW space."""
    return quantization.rotate_back(decode_rotated(quantization, list_ids, codes))


def lut(queries_rot: Float32, codebook: Float32) -> Float32:
    """⟨q_m, codeword⟩ for every query, subspace m and codeword: (n, pq_dim, pq_book_size)."""
    pq_dim, _, pq_len = codebook.shape
    subqueries = queries_rot.reshape(-1, pq_dim, pq_len)
    return np.asarray(np.einsum("nml,mkl->nmk", subqueries, codebook), np.float32)


def _nearest(vectors: Float32, centroids: Float32) -> NDArray[np.int64]:
    # ‖v − c‖² without ‖v‖², which is the same for every c.
    distances = (centroids**2).sum(axis=1) - 2 * vectors @ centroids.T
    return np.asarray(distances.argmin(axis=1), np.int64)
