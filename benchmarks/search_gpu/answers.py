"""Whether an answer is right: compared with the CPU's, before anything is timed."""

from __future__ import annotations

import numpy as np

from benchmarks.search_gpu.backend import Hits
from merlin_poeem import Index
from merlin_poeem.arrays import Float32
from merlin_poeem.evaluate import recall_at_k
from merlin_poeem.search import reference
from merlin_poeem.search.ragged import IdLists

# Rounding may part the scores of two backends by this part of the largest.
SCORE_TOLERANCE = 1e-4


def find_error(
    index: Index, queries: Float32, got: Hits, expected: Hits, refined: bool = False
) -> str | None:
    """Where the first n queries of ``got`` are not ``expected`` (n, k); None where only by ties.

    At each rank the scores are the same, and an item that is not the expected one has by definition
    the score that it came with: that of its codes, or with ``refined`` of its vector.
    """
    got = (got[0][: len(queries)], got[1][: len(queries)])
    return (
        _wrong_count(got, expected)
        or _wrong_score(got, expected)
        or _wrong_item(index, queries, got, expected, refined)
    )


def overlap(got: Hits, expected: Hits) -> float:
    """Share of the expected items that were found, mean over the queries that were judged."""
    relevant = IdLists.from_rows([ids[ids >= 0] for ids in expected[1]])
    found = got[1][: len(relevant)]
    return recall_at_k(found, relevant, found.shape[1])


def _wrong_count(got: Hits, expected: Hits) -> str | None:
    """A query with another number of results."""
    missing = got[1] < 0
    if (missing != (expected[1] < 0)).any():
        counts = [(~(ids < 0)).sum(axis=1) for ids in (got[1], expected[1])]
        row = int(np.argmax(counts[0] != counts[1]))
        return f"query {row}: expected {counts[1][row]} results, got {counts[0][row]}"
    return None


def _tolerance(expected: Hits) -> float:
    scores, item_ids = expected
    return SCORE_TOLERANCE * float(np.abs(scores[item_ids >= 0]).max(initial=1e-30))


def _wrong_score(got: Hits, expected: Hits) -> str | None:
    """A rank at which the scores are apart; where results are missing is the same in both."""
    missing = expected[1] < 0
    apart = np.abs(np.where(missing, 0, got[0]) - np.where(missing, 0, expected[0]))
    if apart.max(initial=0) > _tolerance(expected):
        row, rank = np.unravel_index(apart.argmax(), apart.shape)
        return (
            f"query {row}, rank {rank}: expected score {expected[0][row, rank]}, "
            f"got {got[0][row, rank]}"
        )
    return None


def _wrong_item(
    index: Index, queries: Float32, got: Hits, expected: Hits, refined: bool
) -> str | None:
    """A query with another item than the expected one, whose score is not the one it came with."""
    tolerance = _tolerance(expected)
    scores_of = reference.refined_scores if refined else reference.item_scores
    queries_rot = index.quantization.rotate_queries(queries)
    for row in np.flatnonzero((got[1] != expected[1]).any(axis=1)):
        other = got[1][row] != expected[1][row]
        rows = index.rows_of(got[1][row][other])
        held = got[1][row][got[1][row] >= 0]
        if (rows < 0).any() or len(np.unique(held)) < len(held):
            return f"query {row}: an id that the index does not hold, or one twice"
        true = scores_of(index, queries_rot[row], rows)
        if np.abs(true - got[0][row][other]).max() > tolerance:
            return f"query {row}: an item with the score of another"
    return None
