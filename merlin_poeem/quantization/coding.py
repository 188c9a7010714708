"""The NumPy definition of encoding and decoding: vectors to lists, codes, scales, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import LARGEST_FLOAT, LARGEST_VALUE, Float32, Int32, as_vectors, read_only
from merlin_poeem.progress import Progress
from merlin_poeem.quantization.item_codes import N_SCALES, Quantization, check_scales

Codes = NDArray[np.unsignedinteger]
Float64 = NDArray[np.float64]
Scales = NDArray[np.uint8]

CHUNK_BYTES = 64 << 20
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
NO_SCALES = (0.5, 2.0)
"""The scale range where no item has a scale above 0."""
LARGEST_SCALE_RATIO = 1e4
"""Of the ends of a scale range that is fitted."""


def encode(
    quantization: Quantization, vectors: Float32, *, progress: bool = False
) -> tuple[Int32, Codes]:
    """Nearest list and nearest codewords of raw (n, dim) float32 vectors; ties to the lower number.

    Returns read-only ``list_ids`` (n,) int32 and ``codes`` (n, pq_dim), bounded in memory for any
    n. With ``progress``, work of more than two seconds shows a bar on stderr.
    ``ValueError`` for values above 1e15 in size: where the metric is cosine, give unit vectors.
    """
    vectors = as_vectors("vectors", vectors, quantization.dim, largest=LARGEST_VALUE)
    widest = max(quantization.n_lists, quantization.pq_book_size, quantization.dim)
    rows = max(1, CHUNK_BYTES // (4 * widest))
    list_ids = np.empty(len(vectors), np.int32)
    codes: Codes = np.empty((len(vectors), quantization.pq_dim), quantization.code_dtype)
    with Progress("encode", len(vectors), "vectors", shown=progress) as bar:
        for start in range(0, len(vectors), rows):
            chunk = slice(start, start + rows)
            x_rot = quantization.rotate(vectors[chunk])
            list_ids[chunk] = nearest(x_rot, quantization.coarse_centroids)
            target = x_rot
            if quantization.encodes_residual:
                target = x_rot - quantization.coarse_centroids[list_ids[chunk]]
            subvectors = target.reshape(-1, quantization.pq_dim, quantization.pq_len)
            for m in range(quantization.pq_dim):
                codes[chunk, m] = nearest(subvectors[:, m], quantization.codebook[m])
            bar.update(len(x_rot))
    return read_only(list_ids), read_only(codes)


def exact_scales(
    quantization: Quantization, vectors: Float32, list_ids: Int32, codes: Codes
) -> Float64:
    """The length of raw (n, dim) float32 ``vectors`` along what they are coded as: (n,) float64.

    s = ⟨x, x̂⟩ / ‖x̂‖² in the rotated space, with which ‖x − s · x̂‖ is least there; 0 where x̂ is
    zero. Where the metric is cosine, give unit vectors, so that s · ⟨q, x̂⟩ estimates a cosine.
    """
    scales = np.zeros(len(vectors))
    rows = max(1, CHUNK_BYTES // (16 * quantization.dim))
    for start in range(0, len(vectors), rows):
        chunk = slice(start, start + rows)
        decoded = _decode_unscaled(quantization, list_ids[chunk], codes[chunk])
        x_rot = quantization.rotate(vectors[chunk])
        # In float64, as float32 squares of small codewords become zero.
        along = np.einsum("nd,nd->n", x_rot, decoded, dtype=np.float64)
        squares = np.einsum("nd,nd->n", decoded, decoded, dtype=np.float64)
        np.divide(along, squares, out=scales[chunk], where=squares > 0)
    return scales


def fit_scale_range(scales: Float64) -> Float32:
    """The (2,) float32 ``scale_range`` of a quantization, from :func:`exact_scales` of its items.

    From half the lowest to twice the highest scale above 0: room for items that come later. Where
    these are a factor of 10 apart, an entry of the table is ln(40) / 254 = 1.5 % above the one
    before, and a scale at most 0.7 % off; 100 apart, 1.2 %; at most 1.8 %, as one item with a tiny
    scale, which scores next to nothing, is not to coarsen the scales of all.
    """
    above = scales[scales > 0]
    low, high = (above.min() / 2, above.max() * 2) if len(above) else NO_SCALES
    low = max(low, high / LARGEST_SCALE_RATIO)
    # Within float32, and apart there, whatever the codewords are.
    low = np.clip(low, SMALLEST_SCALE, LARGEST_FLOAT / 4)
    return np.array([low, np.clip(high, 4 * low, LARGEST_FLOAT)], np.float32)


def nearest_scales(quantization: Quantization, scales: Float64) -> Scales:
    """The entries (n,) uint8 of the ``scale_table`` nearest in ratio to exact (n,) ``scales``.

    The first or last of the range where a scale lies beyond it, and entry 0 (an item that is
    decoded as zeros) where it is not above 0.
    """
    if quantization.scale_range is None:
        raise ValueError("quantization: expected one with a scale_range, got none")
    low, high = np.log(quantization.scale_range.astype(np.float64))
    above = scales > 0
    steps = (np.log(scales, where=above, out=np.zeros(len(scales))) - low) / (high - low)
    entries = 1 + np.rint(steps * (N_SCALES - 2)).clip(0, N_SCALES - 2)
    return read_only(np.where(above, entries, 0).astype(np.uint8))


def scales_of(
    quantization: Quantization, vectors: Float32, list_ids: Int32, codes: Codes
) -> Scales:
    """The scales (n,) uint8 of raw (n, dim) float32 ``vectors`` that are coded so.

    :func:`exact_scales`, each as the nearest entry of the table: see :func:`nearest_scales`.
    ``ValueError`` where the quantization has no ``scale_range``.
    """
    return nearest_scales(quantization, exact_scales(quantization, vectors, list_ids, codes))


def decode_rotated(
    quantization: Quantization, list_ids: Int32, codes: Codes, scales: Scales | None = None
) -> Float32:
    """Reconstructions (n, dim) float32 in the ROTATED space: x̂, or s · x̂ with scales.

    ``ValueError`` where only one of the quantization and the items has scales.
    """
    check_scales(quantization, scales)
    decoded = _decode_unscaled(quantization, list_ids, codes)
    if scales is None:
        return decoded
    return np.asarray(quantization.scale_table[scales, None] * decoded, np.float32)


def decode(
    quantization: Quantization, list_ids: Int32, codes: Codes, scales: Scales | None = None
) -> Float32:
    """Reconstructions (n, dim) float32 in the RAW space; errors as of :func:`decode_rotated`."""
    return quantization.rotate_back(decode_rotated(quantization, list_ids, codes, scales))


def decoded_lengths(
    quantization: Quantization, list_ids: Int32, codes: Codes, scales: Scales | None = None
) -> Float64:
    """The lengths (n,) float64 of the reconstructions in the rotated space, which may be stretched.

    Bounded in memory for any n.
    """
    lengths = np.empty(len(list_ids))
    rows = max(1, CHUNK_BYTES // (16 * quantization.dim))
    for start in range(0, len(lengths), rows):
        chunk = slice(start, start + rows)
        some_scales = None if scales is None else scales[chunk]
        decoded = decode_rotated(quantization, list_ids[chunk], codes[chunk], some_scales)
        lengths[chunk] = np.sqrt(np.einsum("nd,nd->n", decoded, decoded, dtype=np.float64))
    return lengths


def lut(queries_rot: Float32, codebook: Float32) -> Float32:
    """⟨q_m, codeword⟩ for every query, subspace m and codeword: (n, pq_dim, pq_book_size)."""
    pq_dim, _, pq_len = codebook.shape
    subqueries = queries_rot.reshape(-1, pq_dim, pq_len)
    return np.asarray(np.einsum("nml,mkl->nmk", subqueries, codebook), np.float32)


def _decode_unscaled(quantization: Quantization, list_ids: Int32, codes: Codes) -> Float32:
    """x̂ (n, dim) float32 in the rotated space, whatever the scale."""
    decoded = quantization.codebook[np.arange(quantization.pq_dim), codes]
    decoded = decoded.reshape(len(codes), quantization.dim)
    if quantization.encodes_residual:
        decoded = decoded + quantization.coarse_centroids[list_ids]
    return np.asarray(decoded, np.float32)


def nearest(vectors: Float32, centroids: Float32) -> NDArray[np.int64]:
    """(n,) int64: the nearest of (k, width) centroids to each of (n, width) vectors; ties lower."""
    # ‖v − c‖² without ‖v‖², which is the same for every c.
    distances = (centroids**2).sum(axis=1) - 2 * vectors @ centroids.T
    return np.asarray(distances.argmin(axis=1), np.int64)
