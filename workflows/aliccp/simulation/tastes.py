"""What made-up items are and what made-up users like: drawn at random, so that it can be learned.

Every item has a category, a shop and a brand, all three of one taste. A user has two tastes, is
fond of a few items of theirs, and has a history of visits to these and to popular items.
"""

from __future__ import annotations

import numpy as np

from workflows.aliccp.simulation.groups import Groups, Ints, draw_ranks

TASTES = 64
FAVOURITES = 3
SECOND_TASTE_SHARE = 0.3
OTHER_VISITS = 5


def draw_groups(
    n_items: int, n_categories: int, n_shops: int, n_brands: int, rng: np.random.Generator
) -> tuple[Groups, Groups, Groups, Groups]:
    """Items by category, shop, brand and taste; shops and brands are at least as many as tastes."""
    n_tastes = min(TASTES, n_categories)
    category = draw_ranks(np.full(n_items, n_categories), rng)
    taste = category % n_tastes
    shops, brands = (
        _draw_of_taste(taste, n_tastes, max(n_tastes, n), rng) for n in (n_shops, n_brands)
    )
    return Groups.of(category, n_categories), shops, brands, Groups.of(taste, n_tastes)


def _draw_of_taste(taste: Ints, n_tastes: int, n_groups: int, rng: np.random.Generator) -> Groups:
    """A shop or brand for every item, of the item's taste: group g has taste g mod n_tastes."""
    n_in_taste = (n_groups - taste + n_tastes - 1) // n_tastes
    return Groups.of(taste + n_tastes * draw_ranks(n_in_taste, rng), n_groups)


def draw_tastes(n_users: int, by_taste: Groups, rng: np.random.Generator) -> Ints:
    """A taste a user, as often as items have it."""
    return by_taste.of_item[rng.integers(0, len(by_taste.of_item), n_users)].astype(np.int64)


def draw_favourites(first: Ints, by_taste: Groups, rng: np.random.Generator) -> Ints:
    """(n_users, FAVOURITES): items of users' ``first`` taste and, but the first, of a second."""
    n_users = len(first)
    second = draw_tastes(n_users, by_taste, rng)
    shares = (0, *[SECOND_TASTE_SHARE] * (FAVOURITES - 1))
    return np.stack(
        [
            by_taste.draw(np.where(rng.random(n_users) < share, second, first), rng)
            for share in shares
        ],
        axis=1,
    )


def draw_visits(favourites: Ints, n_items: int, rng: np.random.Generator) -> Ints:
    """(n_users, FAVOURITES + OTHER_VISITS): favourites, then up to so many popular items, or -1."""
    n_users = len(favourites)
    others = draw_ranks(np.full(n_users * OTHER_VISITS, n_items), rng)
    n_others = rng.integers(0, OTHER_VISITS + 1, (n_users, 1))
    is_visit = np.arange(OTHER_VISITS) < n_others
    return np.hstack([favourites, np.where(is_visit, others.reshape(n_users, -1), -1)])


def groups_visited(visits: Ints, groups: Ints) -> Ints:
    """int32, as ``visits``: the group of each visit, -1 where there is none or it came before."""
    groups = np.where(visits < 0, -1, groups).astype(np.int32)
    for at in range(1, groups.shape[1]):
        groups[(groups[:, :at] == groups[:, at : at + 1]).any(axis=1), at] = -1
    return groups


def draw_profile(
    taste: Ints, n_values: int, missing_share: float, taste_share: float, rng: np.random.Generator
) -> Ints:
    """(n_users,) int8: a value that goes with the user's taste or by chance; -1 where missing."""
    n_users = len(taste)
    follows = rng.random(n_users) < taste_share
    values = np.where(follows, taste % n_values, rng.integers(0, n_values, n_users))
    return np.where(rng.random(n_users) < missing_share, -1, values).astype(np.int8)
