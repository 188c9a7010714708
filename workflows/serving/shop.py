"""A made-up shop as an application has it: ids are texts, some values are missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

DIM = 6
"""Of the sphere of tastes that users and products lie on; users take what lies near."""
N_STYLES, N_CITIES = 20, 50
MISSING = 0.1
FONDNESS = 8


@dataclass(frozen=True)
class Shop:
    """Its tables; nothing in them is numbered."""

    users: pd.DataFrame
    """``user_id``, ``age`` float64 and ``city``, both with nulls."""
    items: pd.DataFrame
    """``item_id``, ``brand``, ``title``."""
    pairs: pd.DataFrame
    """``user_id, item_id``: who has taken what, in no order."""


def make_shop(n_users: int, n_items: int, n_taken: int, seed: int = 0) -> Shop:
    """A shop whose users have taken ``n_taken`` items each."""
    rng = np.random.default_rng(seed)
    tastes, kinds = _on_a_sphere(rng, n_users), _on_a_sphere(rng, n_items)
    styles = (kinds @ rng.standard_normal((DIM, N_STYLES))).argmax(axis=1)
    cities = (tastes @ rng.standard_normal((DIM, N_CITIES))).argmax(axis=1)
    users = pd.DataFrame(
        {
            "user_id": [f"user-{i:05d}" for i in range(n_users)],
            "age": np.where(rng.random(n_users) < MISSING, np.nan, rng.integers(16, 80, n_users)),
            "city": np.where(rng.random(n_users) < MISSING, None, [f"city-{c}" for c in cities]),
        }
    )
    items = pd.DataFrame(
        {
            "item_id": [f"SKU-{i:05d}" for i in rng.permutation(n_items)],
            "brand": [f"brand-{style}" for style in styles],
            "title": [f"Brand {style}, product {i}" for i, style in enumerate(styles)],
        }
    )
    liking = FONDNESS * tastes @ kinds.T + rng.gumbel(size=(n_users, n_items))
    taken = np.argpartition(liking, -n_taken, axis=1)[:, -n_taken:]
    pairs = pd.DataFrame(
        {
            "user_id": users["user_id"].repeat(n_taken).to_numpy(),
            "item_id": items["item_id"].to_numpy()[taken.ravel()],
        }
    )
    return Shop(users, items, pairs.sample(frac=1, random_state=seed, ignore_index=True))


def _on_a_sphere(rng: np.random.Generator, n: int) -> np.ndarray:
    points = rng.standard_normal((n, DIM))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))
