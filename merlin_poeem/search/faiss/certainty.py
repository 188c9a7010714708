"""Which answers are certain: the k-th result must beat every item that Faiss has not returned.

For inner products and distances the last score returned bounds all others. Where Faiss ranks by
something else, cosines by distances and scaled products by sums, what it says bounds them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.search.faiss.batch import Batch
from merlin_poeem.search.faiss.cosines import Cosines
from merlin_poeem.search.faiss.scales import Scales


def settle(
    batch: Batch,
    scores: Float32,
    rows: Int64,
    k: int,
    rescoring: Cosines | Scales | None,
    item_ids: Int64,
) -> tuple[Float32, Int64, NDArray[np.bool_]]:
    """Scanned items put in their final order, and for which queries the first k are certain.

    ``scores`` and ``rows`` are those of :meth:`FaissSearcher._scan`, changed in place.
    """
    complete = (rows[:, -1] < 0) | (batch.n_scanned <= rows.shape[1])
    # No item that was not returned scores above the last one that was.
    bound = scores[:, -1].copy()  # what follows moves scores in place
    if rescoring is not None:
        last_of_scan = scores == bound[:, None]
        bound = rescoring.bound(batch, bound)
        scores = rescoring.of(batch, scores, rows)
        # Equals of the last ones that were returned may have been left.
        bound = np.maximum(bound, np.where(last_of_scan, scores, -np.inf).max(axis=1))
    batch.item_filter.drop_excluded(scores, rows)
    _sort_rows(scores, rows, item_ids)
    if rows.shape[1] < k:
        return scores, rows, complete
    return scores, rows, complete | (scores[:, k - 1] > bound)


def _sort_rows(scores: Float32, rows: Int64, item_ids: Int64) -> None:
    """Sort each query's items in place by falling score, equal scores by item id.

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
    scores[queries] = np.take_along_axis(scores[queries], order, axis=1)
    rows[queries] = np.take_along_axis(rows[queries], order, axis=1)
