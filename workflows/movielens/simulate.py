"""A stand-in for MovieLens where its files are not at hand: its shapes, none of its ratings."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workflows.movielens.data import FOLDERS, GENRES_100K, TEST_SHARE, MovieLens

SIZES = {"100k": (943, 1_682, 100_000), "1m": (6_040, 3_883, 1_000_209)}
"""Users, films and ratings of the real sets."""

GENRES = GENRES_100K[1:]
LIKED_GENRES = 2
LOYALTY = 0.9


def simulate(variant: str, seed: int = 0, share: float = 1.0) -> MovieLens:
    """As :func:`~workflows.movielens.data.read` gives it, ``share`` of the users and ratings.

    Users rate films of the genres that they like, and one in ten of others, popular films more
    often than others; titles are numbers.
    """
    rng = np.random.default_rng(seed)
    n_users, n_films, n_ratings = SIZES[variant]
    n_users, n_ratings = int(share * n_users), int(share * n_ratings)
    genre_of_film = rng.integers(0, len(GENRES), n_films)
    liked_by_user = rng.integers(0, len(GENRES), (n_users, LIKED_GENRES))
    draws = 10 * n_ratings
    users = rng.integers(0, n_users, draws)
    films = (n_films * rng.random(draws) ** 2).astype(np.int64)
    liked = (liked_by_user[users] == genre_of_film[films, None]).any(axis=1)
    kept = liked == (rng.random(draws) < LOYALTY)
    pairs = pd.DataFrame({"user_id": 1 + users[kept], "item_id": 1 + films[kept]})
    pairs = pairs.drop_duplicates(ignore_index=True)[:n_ratings]
    is_test = rng.random(len(pairs)) < TEST_SHARE
    return MovieLens(
        f"{FOLDERS[variant]}-simulated",
        pairs[~is_test].reset_index(drop=True),
        pairs[is_test].reset_index(drop=True),
        _users(rng, n_users),
        _films(rng, genre_of_film),
    )


def _users(rng: np.random.Generator, n_users: int) -> pd.DataFrame:
    columns = {
        "gender": rng.choice(["F", "M"], n_users),
        "age": rng.integers(15, 70, n_users),
        "occupation": rng.choice(["writer", "engineer", "student"], n_users),
        "zip": [f"{number:05d}" for number in rng.integers(0, 100_000, n_users)],
    }
    return pd.DataFrame({"user_id": np.arange(1, n_users + 1), **columns})


def _films(rng: np.random.Generator, genre_of_film: np.ndarray) -> pd.DataFrame:
    ids = np.arange(1, len(genre_of_film) + 1)
    years = rng.integers(1930, 1999, len(ids))
    columns = {
        "title": [f"Film {film} ({year})" for film, year in zip(ids, years, strict=True)],
        "year": years,
        "genres": [[GENRES[genre]] for genre in genre_of_film],
    }
    return pd.DataFrame({"item_id": ids, **columns})
