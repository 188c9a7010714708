"""The NumPy definition of search: what every backend must return.

Written to be read; the other backends are written to be fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64, normalize
from merlin_poeem.quantization.coding import decode_rotated, lut
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import Metric
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.request import SearchRequest

if TYPE_CHECKING:
    from merlin_poeem.index.flat_index import FlatIndex
    from merlin_poeem.index.index import Index


def list_scores(
    quantization: Quantization,
    queries_rot: Float32,
    metric: Metric,
    list_factors: Float32 | None = None,
) -> Float32:
    """Score of every list for every query, (n, n_lists), higher first.

    A list scores as its centroid would if it were an item, times its factor of (n_lists,)
    ``list_factors`` where the index has some: see :attr:`Index.list_factors
    <merlin_poeem.Index.list_factors>`.
    """
    centroids = quantization.coarse_centroids
    if metric == "l2":
        # By the differences: squares of what is far from zero would lose the digits that count.
        scores: Float32 = np.empty((len(queries_rot), len(centroids)), np.float32)
        for i, query_rot in enumerate(queries_rot):
            scores[i] = -((query_rot - centroids) ** 2).sum(axis=1)
        return scores
    if metric == "cosine" and list_factors is None:
        centroids = normalize(centroids)
    scores = queries_rot @ centroids.T
    return scores if list_factors is None else scores * list_factors


def search(
    index: Index,
    queries: Float32,
    *,
    k: int,
    n_probes: int | None = None,
    refine: int | None = None,
    exclude: Any = None,
    allow: Any = None,
) -> Candidates:
    """The ``k`` best items of the ``n_probes`` best lists of each query: ``Searcher.search``."""
    request = SearchRequest.of(index, queries, k, n_probes, refine, exclude, allow)
    of_lists = list_scores(
        index.quantization, request.queries_rot, index.params.metric, index.list_factors
    )
    results = []
    for i, query_rot in enumerate(request.queries_rot):
        probes = np.argsort(-of_lists[i], kind="stable")[: request.n_probes]
        rows = np.flatnonzero(np.isin(index.list_ids, probes))
        rows = rows[_may_be_returned(index.item_ids[rows], request, i)]
        scores = item_scores(index, query_rot, rows)
        best = np.lexsort((index.item_ids[rows], -scores))[: request.n_candidates]
        if request.refine:
            rows = rows[best]
            scores = refined_scores(index, query_rot, rows)
            best = np.lexsort((index.item_ids[rows], -scores))[: request.k]
        results.append((scores[best], index.item_ids[rows[best]]))
    return Candidates.from_rows(results)


def _may_be_returned(item_ids: Int64, request: SearchRequest, query: int) -> NDArray[np.bool_]:
    """(n,) bool: which of ``item_ids`` the filters leave to a query."""
    left = np.ones(len(item_ids), bool)
    if request.exclude is not None:
        left &= ~np.isin(item_ids, request.exclude.row(query))
    if request.allow is not None:
        left &= np.isin(item_ids, request.allow.row(query))
    return left


def search_flat(
    index: FlatIndex,
    queries: Float32,
    *,
    k: int,
    n_probes: int | None = None,
    refine: int | None = None,
    exclude: Any = None,
    allow: Any = None,
) -> Candidates:
    """The ``k`` best of all items by their stored vectors: ``Searcher.search`` of a flat index."""
    request = SearchRequest.of_flat(index, queries, k, n_probes, refine, exclude, allow)
    results = []
    for i, query in enumerate(request.queries_rot):
        rows: Int64 = np.arange(index.n_items)
        rows = rows[_may_be_returned(index.item_ids[rows], request, i)]
        scores = index.vectors.scores(index.metric, query, rows)
        best = np.lexsort((index.item_ids[rows], -scores))[: request.k]
        results.append((scores[best], index.item_ids[rows[best]]))
    return Candidates.from_rows(results)


def refined_scores(index: Index, query_rot: Float32, rows: Int64) -> Float32:
    """Scores (len(rows),) float32 of the stored vectors in ``rows`` for one rotated query (dim,).

    ``ValueError`` where the index holds none.
    """
    if index.vectors is None:
        raise ValueError("index: expected one with vectors, got one without")
    return index.vectors.scores(index.params.metric, query_rot, rows)


def item_scores(index: Index, query_rot: Float32, rows: Int64) -> Float32:
    """Scores (len(rows),) float32 of the items in ``rows`` for one rotated query (dim,).

    An item's score estimates that of its float vector: with scales, s · ⟨q, x̂⟩.
    """
    list_ids, codes, scales = index.coded(rows)
    decoded = decode_rotated(index.quantization, list_ids, codes, scales)
    if index.params.metric == "l2":
        return np.asarray(-((query_rot - decoded) ** 2).sum(axis=1), np.float32)
    # The asymmetric distance computation of Jégou et al.: one lookup per subspace, no decoding.
    table = lut(query_rot[None], index.quantization.codebook)[0]
    scores = table[np.arange(index.quantization.pq_dim), codes].sum(axis=1)
    if index.quantization.encodes_residual:
        scores = scores + (index.quantization.coarse_centroids @ query_rot)[list_ids]
    if scales is not None:
        # q is of length 1 for cosine, and s · x̂ as long as the unit vector x is along x̂.
        scores = index.quantization.scale_table[scales] * scores
    elif index.params.metric == "cosine":
        norms = np.linalg.norm(decoded, axis=1)
        scores = scores / np.where(norms > 0, norms, 1)
    return np.asarray(scores, np.float32)
