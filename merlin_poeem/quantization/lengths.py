"""How long the centroids and codewords of a quantization are, typically and at most."""

from __future__ import annotations

import numpy as np

from merlin_poeem.arrays import Float32


def lengths_of(vectors: Float32) -> Float32:
    """Length of each row of (n, width): (n,)."""
    return np.asarray(np.linalg.norm(vectors, axis=1), np.float32)


def typical_length(vectors: Float32) -> float:
    """The median length of (n, width) rows that are not all zeros; 0 where all are.

    The median and not the mean, which one far row would take with it.
    """
    lengths = lengths_of(vectors)
    return float(np.median(lengths[lengths > 0])) if lengths.any() else 0.0


def longest_length(vectors: Float32) -> float:
    """The largest length of (n, width) rows."""
    return float(lengths_of(vectors).max())
