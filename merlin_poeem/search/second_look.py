"""The second look on the host: the best candidates by their codes, scored by stored vectors."""

from __future__ import annotations

import numpy as np

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.row_order import sort_rows

# Vectors that are decoded at once: they stay in the cache until their products are taken.
BLOCK_BYTES = 1 << 20


def look_again(
    index: Index | FlatIndex, queries_rot: Float32, rows: Int64, k: int
) -> tuple[Float32, Int64]:
    """The ``k`` best of each query's candidates by the vectors that ``index`` holds.

    Parameters
    ----------
    queries_rot
        (n, dim) float32, rotated, of unit length where the metric is cosine.
    rows
        (n, width) int64, rows of the index; −1 where there is no candidate.

    Returns
    -------
    (scores, rows), both (n, min(k, width)), best first, −inf and −1 where there is no candidate.
    """
    scores: Float32 = np.empty(rows.shape, np.float32)
    step = max(1, BLOCK_BYTES // (4 * index.dim * max(1, rows.shape[1])))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        scores[block] = _scores(index, queries_rot[block], rows[block])
    scores[rows < 0] = -np.inf
    rows = rows.copy()
    sort_rows(scores, rows, index.item_ids)
    return scores[:, :k], rows[:, :k]


def refine_candidates(
    index: Index, queries_rot: Float32, candidates: Candidates, k: int
) -> Candidates:
    """The same of candidates by their ids; those that ``index`` does not hold are dropped.

    Both in NumPy.
    """
    width = int(candidates.counts.max(initial=0))
    rows: Int64 = np.full((len(candidates), width), -1, np.int64)
    rows[np.arange(width) < candidates.counts[:, None]] = index.rows_of(candidates.item_ids)
    scores, rows = look_again(index, queries_rot, rows, k)
    found = rows >= 0
    return Candidates(found.sum(axis=1), scores[found], index.item_ids[rows[found]])


def _scores(index: Index | FlatIndex, queries_rot: Float32, rows: Int64) -> Float32:
    """(n, width) float32 scores of (n, width) ``rows``, whatever those of −1."""
    vectors = index.vectors
    if vectors is None:
        raise ValueError("index: expected one with vectors, got one without")
    if not len(vectors):
        return np.empty(rows.shape, np.float32)
    if index.metric == "l2":
        moved = queries_rot if vectors.origin is None else queries_rot - vectors.origin
        differences = vectors.decoded(rows) - moved[:, None]
        return np.asarray(-np.einsum("nwd,nwd->nw", differences, differences), np.float32)
    # Not matmul: equal vectors have to have equal scores, wherever they lie.
    scores = np.einsum("nwd,nd->nw", vectors.values_of(rows), queries_rot)
    if vectors.scales is not None:
        scores *= vectors.scales[rows]
    return np.asarray(scores, np.float32)
