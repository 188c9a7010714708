"""Which errors of an item vector matter: those that change its scores with the queries there are.

The score of an item is off by ⟨q, e⟩ for an error e = x − x̂, and the mean square of that over all
queries is eᵀ E[qqᵀ] e: an error across all queries costs nothing. Codes chosen for it are as long
as any others (compare Guo et al., ICML 2020, who weigh the direction of the item itself).
"""

from __future__ import annotations

import numpy as np

from merlin_poeem.arrays import Float32

PLAIN_SHARE = 0.3


def of_queries(queries: Float32) -> Float32:
    """(dim, dim) float32 weights for (n, dim) queries, in their space; zero rows do not count."""
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    directions = queries / np.where(lengths > 0, lengths, 1)
    return from_query_moments(directions.T @ directions)


def from_query_moments(moments: Float32) -> Float32:
    """(dim, dim) float32 weights of a mean diagonal of 1, out of E[qqᵀ] (dim, dim), in its space.

    ``PLAIN_SHARE`` of the plain squared error goes with it, for queries unlike those seen and so
    that the weights are positive definite. No queries at all, zeros, give the identity.
    """
    dim = len(moments)
    symmetric = (moments.astype(np.float64) + moments.T) / 2
    mean = np.trace(symmetric) / dim
    if mean > 0:
        symmetric = symmetric / mean
    weights = symmetric + PLAIN_SHARE * np.eye(dim)
    return np.asarray(weights * dim / np.trace(weights), np.float32)
