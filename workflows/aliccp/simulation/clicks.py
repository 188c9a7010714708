"""What made-up users click on, and so the best ranking there can be.

A user clicks among the items of the category, shop and brand of a favourite, mostly on popular
ones, and now and then on any item.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workflows.aliccp.simulation.groups import Ints, draw_ranks, rank_share
from workflows.aliccp.simulation.tastes import FAVOURITES
from workflows.aliccp.simulation.world import FIRST_ID, World

FAVOURITE_SHARES = (0.5, 0.3, 0.2)
KIND_SHARES = (0.4, 0.3, 0.3)
NOISE_SHARE = 0.1


def draw_items(
    world: World, users: Ints, is_click: NDArray[np.bool_], rng: np.random.Generator
) -> Ints:
    """An item for each impression: by popularity alone, but for most of the clicks by taste."""
    n = len(users)
    items = draw_ranks(np.full(n, world.n_items), rng)
    by_taste = np.flatnonzero(is_click & (rng.random(n) >= NOISE_SHARE))
    items[by_taste] = _draw_by_taste(world, users[by_taste], rng)
    return items


def _draw_by_taste(world: World, users: Ints, rng: np.random.Generator) -> Ints:
    """An item for each user, out of a group that he or she is fond of."""
    which = rng.choice(FAVOURITES, len(users), p=FAVOURITE_SHARES)
    favourites = world.favourites[users, which]
    kinds = rng.choice(len(KIND_SHARES), len(users), p=KIND_SHARES)
    items = np.empty(len(users), np.int64)
    for kind, one in enumerate(world.groups):
        mine = kinds == kind
        items[mine] = one.draw(one.of_item[favourites[mine]], rng)
    return items


def best_items(world: World, user_ids: Ints, k: int) -> Ints:
    """(n, k) int64 ids of the items likeliest to be clicked, best first: what no model beats.

    ``ValueError`` on ids that are none of the world's users.
    """
    users = np.asarray(user_ids, np.int64) - FIRST_ID["user_id"]
    if len(users) and not (users.min() >= 0 and users.max() < world.n_users):
        raise ValueError(
            f"user_ids: expected {FIRST_ID['user_id']} to "
            f"{FIRST_ID['user_id'] + world.n_users - 1}, got {np.min(user_ids)} to "
            f"{np.max(user_ids)}"
        )
    k = min(k, world.n_items)
    return np.stack([world.item_ids[_best_of_user(world, user, k)] for user in users])


def _best_of_user(world: World, user: int, k: int) -> Ints:
    """Of every group that the user is fond of and of all items, the top k hold the best k."""
    items, shares = [np.arange(k)], [np.zeros(k)]
    for favourite, share in zip(world.favourites[user], FAVOURITE_SHARES, strict=True):
        for one, kind_share in zip(world.groups, KIND_SHARES, strict=True):
            members = one.members(int(one.of_item[favourite]))
            ranks = np.arange(len(members))
            items.append(members)
            shares.append((1 - NOISE_SHARE) * share * kind_share * rank_share(ranks, len(members)))
    candidates, row = np.unique(np.concatenate(items), return_inverse=True)
    total = np.bincount(row.ravel(), np.concatenate(shares))
    total += NOISE_SHARE * rank_share(candidates, world.n_items)
    return candidates[np.lexsort((candidates, -total))[:k]]
