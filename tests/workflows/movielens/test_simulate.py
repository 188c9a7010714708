"""Simulated ratings have the shapes of the real ones, and tastes to be learned."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workflows.movielens.simulate import SIZES, simulate


def test_it_has_the_size_of_the_real_set_and_repeats() -> None:
    data, again = simulate("100k"), simulate("100k")
    n_users, n_films, n_ratings = SIZES["100k"]
    assert (len(data.users), len(data.items)) == (n_users, n_films)
    assert len(data.train) + len(data.test) == n_ratings
    pairs = pd.concat([data.train, data.test])
    assert not pairs.duplicated().any()
    assert pairs["user_id"].isin(data.users["user_id"]).all()
    assert pairs["item_id"].isin(data.items["item_id"]).all()
    pd.testing.assert_frame_equal(data.train, again.train)
    assert not simulate("100k", seed=1).train.equals(data.train)
    assert len(simulate("100k", share=0.1).users) == n_users // 10


def test_users_keep_to_genres_and_popular_films() -> None:
    data = simulate("100k")
    genre = data.items.set_index("item_id")["genres"].str[0]
    by_user = data.train["item_id"].map(genre).groupby(data.train["user_id"])
    two_genres = by_user.agg(lambda genres: genres.value_counts(normalize=True)[:2].sum())
    assert two_genres.mean() > 0.4  # of 18, an even choice would give 0.2
    counts = data.train["item_id"].value_counts()
    assert np.sort(counts)[::-1][:168].sum() > 0.2 * counts.sum()
