"""The best of what the shards of one index have found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merlin_poeem.search.ragged import Candidates


def merge_candidates(parts: Sequence[Candidates], k: int) -> Candidates:
    """The ``k`` best of each query over all ``parts``, equal scores by item id.

    Exact where each part holds the ``k`` best of its own items, or all there are, and no item is in
    two: what is not among the best of its part is not among the best of all. ``parts`` are NumPy,
    at least one, and of the same queries.
    """
    queries = np.concatenate([part.query_numbers for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    item_ids = np.concatenate([part.item_ids for part in parts])
    order = np.lexsort((item_ids, -scores, queries))
    found = np.sum([part.counts for part in parts], axis=0)
    starts = np.cumsum(found) - found
    rank = np.arange(len(order)) - np.repeat(starts, found)
    best = order[rank < k]
    return Candidates(np.minimum(found, k), scores[best], item_ids[best])
