"""A second look: the best candidates of any method scored again by their float16 vectors.

The same for every method, so that what differs is the candidates that codes find.
"""

from __future__ import annotations

import numpy as np

from benchmarks.quality.trial import Trial
from merlin_poeem import Candidates
from merlin_poeem.arrays import Float32

CHUNK_ROWS = 1 << 16


def first_of(found: Candidates, k: int) -> Candidates:
    """The first ``k`` results of every query."""
    places = np.arange(len(found.item_ids)) - np.repeat(found.offsets[:-1], found.counts)
    is_first = places < k
    counts = np.minimum(found.counts, k)
    return Candidates(counts, found.scores[is_first], found.item_ids[is_first])


def second_look(trial: Trial, found: Candidates) -> Candidates:
    """What was ``found``, in the order of the inner products with float16 vectors."""
    by_id = np.argsort(trial.item_ids)
    rows = by_id[np.searchsorted(trial.item_ids[by_id], found.item_ids)]
    queries = np.repeat(np.arange(len(found)), found.counts)
    vectors = trial.item_vectors.astype(np.float16)
    scores: Float32 = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        scored = vectors[rows[chunk]].astype(np.float32), trial.queries[queries[chunk]]
        scores[chunk] = np.einsum("ij,ij->i", *scored)
    order = np.lexsort((found.item_ids, -scores, queries))
    return Candidates(found.counts, scores[order], found.item_ids[order])


def vector_bytes(trial: Trial) -> int:
    """Bytes an item of what a second look reads, beside the codes."""
    return 2 * trial.item_vectors.shape[1]
