"""Flat indexes for tests, and what a search of one has to return."""

from typing import Any

import numpy as np

from merlin_poeem import Candidates, FlatIndex
from merlin_poeem.search import reference

FIRST_ID = 2**40


def random_flat(
    metric: str = "inner_product", dtype: str = "float32", *, n_items: int = 300, dim: int = 13
) -> FlatIndex:
    """Ids above 2**40 in no order; every fifth item has the vector of one of three others."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n_items, dim)).astype(np.float32)
    vectors[::5] = vectors[1:4][rng.integers(0, 3, len(vectors[::5]))] if n_items > 4 else 1
    item_ids = FIRST_ID + 3 * rng.permutation(n_items)
    return FlatIndex.from_vectors(item_ids, vectors, metric=metric, store_vectors=dtype)  # type: ignore[arg-type]


def flat_queries(index: FlatIndex, n: int = 12) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, index.dim)).astype(np.float32)


def assert_flat_answers(
    index: FlatIndex, got: Candidates, queries: np.ndarray, **search: Any
) -> None:
    """``got`` is what the definition says, ties by id included."""
    true = reference.search_flat(index, queries, **search)
    np.testing.assert_array_equal(got.counts, true.counts)
    tolerance = 1e-5 * float(np.abs(true.scores).max(initial=1e-30))
    np.testing.assert_allclose(got.scores, true.scores, rtol=0, atol=tolerance)
    differ = got.item_ids != true.item_ids
    # Ids may swap only where scores that are no ties are that close.
    near = np.abs(np.diff(true.scores, prepend=np.inf)) <= tolerance
    near |= np.abs(np.diff(true.scores, append=-np.inf)) <= tolerance
    assert not (differ & ~near).any()
    vector_of = dict(zip(index.item_ids.tolist(), _rows_of(index), strict=True))
    eligible = reference.search_flat(index, queries, **{**search, "k": max(1, len(index))})
    for i in range(len(got)):
        scores, item_ids = got[i]
        assert (np.diff(scores) <= 0).all()
        by_vector: dict[bytes, list[int]] = {}
        for item_id in item_ids.tolist():
            by_vector.setdefault(vector_of[item_id], []).append(item_id)
        lowest: dict[bytes, list[int]] = {}
        for item_id in sorted(eligible[i][1].tolist()):
            lowest.setdefault(vector_of[item_id], []).append(item_id)
        for vector, alike in by_vector.items():
            assert alike == lowest[vector][: len(alike)]


def _rows_of(index: FlatIndex) -> list[bytes]:
    return [row.tobytes() for row in index.vectors.decoded()]
