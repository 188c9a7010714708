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
from merlin_poeem.search.row_order import sort_rows


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
    sort_rows(scores, rows, item_ids)
    if rows.shape[1] < k:
        return scores, rows, complete
    return scores, rows, complete | (scores[:, k - 1] > bound)
