"""A stand-in for Gowalla where its files are not at hand: users with tastes, popular places."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workflows.gowalla.data import CheckIns

TASTES = 20


def simulate(n_users: int, n_items: int, *, visits: int = 30, seed: int = 0) -> CheckIns:
    """A stand-in for the real pairs: users visit places of two tastes, and now and then others.

    About ``visits`` a user; places with low ids are the popular ones.
    """
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, TASTES, n_items)
    favourite = rng.integers(0, TASTES, (n_users, 2))
    users = np.repeat(np.arange(n_users), 10 * visits)
    places = (n_items * rng.random(len(users)) ** 1.5).astype(np.int64)
    liked = (favourite[users] == taste[places, None]).any(axis=1)
    kept = liked | (rng.random(len(users)) < 0.02)
    pairs = pd.DataFrame({"user_id": users[kept], "item_id": places[kept]}).drop_duplicates()
    is_test = rng.random(len(pairs)) < 0.2
    train, test = pairs[~is_test], pairs[is_test]
    return CheckIns(train, test[test["user_id"].isin(train["user_id"])])
