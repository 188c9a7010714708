"""How long the items of each list are, on average, and what that makes of the list's score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import LARGEST_FLOAT, Float32, Int32, Int64, read_only
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import Metric

Float64 = NDArray[np.float64]
Coded = tuple[Int32, NDArray[np.unsignedinteger], NDArray[np.uint8] | None]
"""List ids (n,) int32, codes (n, pq_dim) and scales, (n,) uint8 or None, of some items."""


def tell_of_lists(metric: Metric, quantization: Quantization) -> bool:
    """Whether the lengths of items matter to the scores of lists.

    By the inner product they do. By the cosine items are of length 1, and lists score by their
    directions; but in a stretched space they are not.
    """
    is_stretched = quantization.query_rotation is not None
    return metric == "inner_product" or (metric == "cosine" and is_stretched)


def mean_lengths(quantization: Quantization, coded: Coded, list_sizes: Int64) -> Float64:
    """(n_lists,) float64, the mean length of what each list's items are decoded as."""
    return _means(quantization, _sums(quantization, coded), list_sizes)


def changed_lengths(
    quantization: Quantization, lengths: Float64, list_sizes: Int64, coded: Coded, sign: int
) -> Float64:
    """The mean ``lengths`` with these items more (``sign`` 1) or less (−1).

    Only they are decoded. ``list_sizes`` are those before.
    """
    sums = lengths * list_sizes + sign * _sums(quantization, coded)
    n_changed = np.bincount(coded[0], minlength=quantization.n_lists)
    return _means(quantization, sums, list_sizes + sign * n_changed)


def factors_of(quantization: Quantization, lengths: Float64) -> Float32:
    """(n_lists,) float32: mean length over ‖c‖, and 0 where the centroid is zero."""
    norms = _norms(quantization.coarse_centroids)
    factors = np.divide(lengths, norms, out=np.zeros(len(norms)), where=norms > 0)
    return read_only(np.minimum(factors, LARGEST_FLOAT).astype(np.float32))


def _sums(quantization: Quantization, coded: Coded) -> Float64:
    lengths = coding.decoded_lengths(quantization, *coded)
    return np.bincount(coded[0], lengths, quantization.n_lists).astype(np.float64)


def _means(quantization: Quantization, sums: Float64, list_sizes: Int64) -> Float64:
    # Of what was subtracted, rounding may leave a sum below 0.
    means = np.maximum(sums, 0) / np.maximum(list_sizes, 1)
    # An empty list scores as its centroid does.
    return read_only(np.where(list_sizes > 0, means, _norms(quantization.coarse_centroids)))


def _norms(vectors: Float32) -> Float64:
    squares: Float64 = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)
