"""What the GPU benchmark takes for right: exact search, and answers that differ by ties alone."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.search_gpu.answers import find_error
from benchmarks.search_gpu.exact_peers import exact_top_k
from merlin_poeem import Index
from merlin_poeem.search import reference
from tests.index_factories import random_index, random_queries


def test_exact_top_k_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "benchmarks.search_gpu.exact_peers.SCORE_BYTES", 4 * 5 * 7
    )  # 7 items at a time
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 4), np.float32)
    queries = rng.standard_normal((5, 4), np.float32)
    scores, rows = exact_top_k(np, vectors, queries, 9)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :9]
    np.testing.assert_array_equal(rows, expected)
    assert (np.diff(scores, axis=1) <= 0).all()


def hits_of(index: Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    found = reference.search(index, queries, k=k)
    return tuple(array.copy() for array in found.padded(k, fill_id=-1))  # type: ignore[return-value]


def test_the_right_answers_have_no_error() -> None:
    index = random_index(n_repeated=390)
    queries = random_queries(index, 6)
    expected = hits_of(index, queries, 8)
    assert find_error(index, queries, expected, expected) is None
    # More queries than were judged, and two items of the same codes swapped.
    scores, item_ids = hits_of(index, random_queries(index, 9), 8)
    tied = np.argwhere(scores[:6, 1:] == scores[:6, :-1])
    assert len(tied), "the index repeats codes"
    row, rank = tied[0]
    item_ids[row, [rank, rank + 1]] = item_ids[row, [rank + 1, rank]]
    first = random_queries(index, 9)[:6]
    assert find_error(index, first, (scores, item_ids), hits_of(index, first, 8)) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda scores, ids: scores.__setitem__((1, 2), 9e9), "rank 2: expected score"),
        (
            lambda scores, ids: ids.__setitem__((1, 2), ids[1, 7]),
            "or one twice|the score of another",
        ),
        (lambda scores, ids: ids.__setitem__((1, 2), 5), "an id that the index does not hold"),
        (lambda scores, ids: ids.__setitem__((1, 7), -1), "expected 8 results, got 7"),
        (
            lambda scores, ids: ids.__setitem__((1, [0, 7]), ids[1, [7, 0]]),
            "an item with the score of another",
        ),
    ],
)
def test_wrong_answers_are_found(damage: Callable[..., None], message: str) -> None:
    index = random_index(n_repeated=0)
    queries = random_queries(index, 3)
    scores, item_ids = hits_of(index, queries, 8)
    damage(scores, item_ids)
    error = find_error(index, queries, (scores, item_ids), hits_of(index, queries, 8))
    assert error is not None
    assert error.startswith("query 1")
    assert any(part in error for part in message.split("|"))
