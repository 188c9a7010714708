"""Places like a place, and the other visits of a user: by brute force, and what is drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("scipy")

from workflows.gowalla import neighbours
from workflows.gowalla.neighbours import other_visits, similar_places
from workflows.gowalla.simulate import simulate

N_ITEMS = 120


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    return simulate(n_users=60, n_items=N_ITEMS, visits=8, seed=2).train


def dense_similarities(pairs: pd.DataFrame) -> np.ndarray:
    visits = np.zeros((N_ITEMS, pairs["user_id"].max() + 1))
    visits[pairs["item_id"], pairs["user_id"]] = 1
    visits /= np.sqrt(np.maximum(visits.sum(axis=0), 1))
    products = visits @ visits.T
    sizes = np.diag(products) + 1
    similarities = products / np.sqrt(sizes[:, None] * sizes)
    np.fill_diagonal(similarities, 0)
    return similarities


def test_similar_places_share_visitors(
    pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 50)
    found = similar_places(pairs, N_ITEMS, 5)
    expected = dense_similarities(pairs)
    assert found.shape == (N_ITEMS, 5)
    assert found.dtype == np.int64
    best = -np.sort(-expected, axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(expected, found, 1), best, atol=1e-6)


def test_a_place_stands_in_for_neighbours_that_it_lacks() -> None:
    pairs = pd.DataFrame({"user_id": [0, 0, 1], "item_id": [3, 1, 2]})
    expected = [[0, 0], [3, 1], [2, 2], [1, 3], [4, 4]]
    np.testing.assert_array_equal(similar_places(pairs, 5, 2), expected)


def test_other_visits_are_the_users_own_and_not_the_one_to_be_found(pairs: pd.DataFrame) -> None:
    counts = pairs["user_id"].map(pairs["user_id"].value_counts())
    shuffled = pairs[counts > 1].sample(frac=1, random_state=0)
    others = other_visits(shuffled, 40, seed=1)
    assert others.dtype == np.int64
    visited = pairs.groupby("user_id")["item_id"].apply(set)
    for user, place, drawn in zip(
        shuffled["user_id"], shuffled["item_id"], others.tolist(), strict=True
    ):
        assert set(drawn) <= visited[user] - {place}
    user = shuffled["user_id"].value_counts().idxmin()
    drawn = others[(shuffled["user_id"] == user).to_numpy()]
    assert set(drawn.ravel()) == visited[user]


def test_other_visits_depend_on_the_seed_alone(pairs: pd.DataFrame) -> None:
    first, again, other = (other_visits(pairs, 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_only_visit_of_a_user_is_drawn_itself() -> None:
    pairs = pd.DataFrame({"user_id": [4], "item_id": [7]})
    np.testing.assert_array_equal(other_visits(pairs, 2, seed=0), [[7, 7]])
