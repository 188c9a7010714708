"""The NumPy definition of encoding, decoding and search: what every backend must return.

Written to be read; the other backends are written to be fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int32, Int64, as_vectors, normalize
from merlin_poeem.item_codes import Quantization
from merlin_poeem.params import Metric
from merlin_poeem.ragged import Candidates
from merlin_poeem.request import SearchRequest

if TYPE_CHECKING:
    from merlin_poeem.index import Index

CHUNK_BYTES = 64 << 20


def encode(
    quantization: Quantization, vectors: Float32
) -> tuple[Int32, NDArray[np.unsignedinteger]]:
    """Nearest list and nearest codewords of raw (n, dim) float32 vectors; ties to the lower number.

    Returns ``list_ids`` (n,) int32 and ``codes`` (n, pq_dim), bounded in memory for any n.
    """
    vectors = as_vectors("vectors", vectors, quantization.dim)
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
    return list_ids, codes


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


def list_scores(quantization: Quantization, queries_rot: Float32, metric: Metric) -> Float32:
    """Score of every list for every query, (n, n_lists), higher first.

    A list scores as its centroid would if it were an item.
    """
    centroids = quantization.coarse_centroids
    if metric == "cosine":
        centroids = normalize(centroids)
    scores = queries_rot @ centroids.T
    if metric == "l2":
        scores = 2 * scores - (centroids**2).sum(axis=1)
        scores -= (queries_rot**2).sum(axis=1, keepdims=True)
    return scores


def search(
    index: Index,
    queries: Float32,
    *,
    k: int,
    n_probes: int | None = None,
    exclude: Any = None,
    allow: Any = None,
) -> Candidates:
    """The ``k`` best items of the ``n_probes`` best lists of each query: ``Searcher.search``."""
    request = SearchRequest.of(index, queries, k, n_probes, exclude, allow)
    of_lists = list_scores(index.quantization, request.queries_rot, index.params.metric)
    results = []
    for i, query_rot in enumerate(request.queries_rot):
        probes = np.argsort(-of_lists[i], kind="stable")[: request.n_probes]
        rows = np.flatnonzero(np.isin(index.list_ids, probes))
        if request.exclude is not None:
            rows = rows[~np.isin(index.item_ids[rows], request.exclude.row(i))]
        if request.allow is not None:
            rows = rows[np.isin(index.item_ids[rows], request.allow.row(i))]
        scores = item_scores(index, query_rot, rows)
        best = np.lexsort((index.item_ids[rows], -scores))[: request.k]
        results.append((scores[best], index.item_ids[rows[best]]))
    return Candidates.from_rows(results)


def item_scores(index: Index, query_rot: Float32, rows: Int64) -> Float32:
    """Scores (len(rows),) float32 of the items in ``rows`` for one rotated query (dim,)."""
    codes = index.codes[rows]
    decoded = decode_rotated(index.quantization, index.list_ids[rows], codes)
    if index.params.metric == "l2":
        return np.asarray(-((query_rot - decoded) ** 2).sum(axis=1), np.float32)
    # The asymmetric distance computation of Jégou et al.: one lookup per subspace, no decoding.
    table = lut(query_rot[None], index.quantization.codebook)[0]
    scores = table[np.arange(index.quantization.pq_dim), codes].sum(axis=1)
    if index.quantization.encodes_residual:
        scores = scores + (index.quantization.coarse_centroids @ query_rot)[index.list_ids[rows]]
    if index.params.metric == "cosine":
        norms = np.linalg.norm(decoded, axis=1)
        scores = scores / np.where(norms > 0, norms, 1)
    return np.asarray(scores, np.float32)


def _nearest(vectors: Float32, centroids: Float32) -> NDArray[np.int64]:
    # ‖v − c‖² without ‖v‖², which is the same for every c.
    distances = (centroids**2).sum(axis=1) - 2 * vectors @ centroids.T
    return np.asarray(distances.argmin(axis=1), np.int64)
