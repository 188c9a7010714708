"""The order of results: by falling score, equal scores by item id."""

from __future__ import annotations

import numpy as np

from merlin_poeem.arrays import Float32, Int64


def sort_rows(scores: Float32, rows: Int64, item_ids: Int64) -> None:
    """Sort each query's items in place: ``scores`` and ``rows`` (n, width), −1 where there is none.

    ``item_ids`` are those of all rows; what is absent scores −inf.
    Only queries that are not strictly falling yet are touched: few, where Faiss' order stands.
    """
    unsorted = _not_falling(scores)
    if len(unsorted):
        order = np.argsort(-scores[unsorted], axis=1)
        _reorder(scores, rows, unsorted, order)
        # By two keys, which is slow, only where there are ties; absent items are no tie.
        tied = unsorted[_not_falling(np.where(rows[unsorted] < 0, np.nan, scores[unsorted]))]
        _reorder(scores, rows, tied, np.lexsort((item_ids[rows[tied]], -scores[tied])))


def _not_falling(scores: Float32) -> Int64:
    return np.flatnonzero((scores[:, 1:] >= scores[:, :-1]).any(axis=1))


def _reorder(scores: Float32, rows: Int64, queries: Int64, order: Int64) -> None:
    of_queries = queries[:, None]
    scores[queries], rows[queries] = scores[of_queries, order], rows[of_queries, order]
