"""A made-up Ali-CCP's items and users, of the real cardinalities, with tastes to be learned.

The real set needs its publisher's login, and Merlin's synthetic one has no signal. Memory is
bounded by the items and the users: 0.5 GB at the real 4.3M items and 0.4M users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from merlin_poeem.datasets.aliccp.fields import CATALOG_COLUMNS, FIELDS
from workflows.aliccp.simulation.groups import Groups, Ints
from workflows.aliccp.simulation.mix import mix
from workflows.aliccp.simulation.tastes import (
    draw_favourites,
    draw_groups,
    draw_profile,
    draw_tastes,
    draw_visits,
    groups_visited,
)

REAL_ITEMS, REAL_USERS, REAL_ROWS = 4_300_000, 400_000, 84_000_000
REAL_CATEGORIES, REAL_SHOPS, REAL_BRANDS, REAL_INTENTIONS = 8_581, 604_498, 208_179, 96_258
HISTORIES = ("user_categories", "user_shops", "user_brands", "user_intentions")
PROFILES = {  # values, share of rows without one, share of users that follow their taste
    "user_profile": (97, 0.03, 0.7),
    "user_group": (13, 0.03, 0.7),
    "user_gender": (2, 0.03, 0.7),
    "user_age": (7, 0.03, 0.5),
    "user_consumption_1": (3, 0.5, 0.3),
    "user_consumption_2": (3, 0.2, 0.3),
    "user_is_occupied": (2, 0.05, 0.3),
    "user_geography": (4, 0.1, 0.0),
}
ID_SPACE = 10_000_000
FIRST_ID = {f.name: ID_SPACE * i + 1 for i, f in enumerate(FIELDS)}


@dataclass(frozen=True)
class World:
    """Items and users, numbered from 0; items by popularity. Ids are what the tables hold."""

    seed: int
    item_ids: Ints
    """(n_items,) int64."""
    groups: tuple[Groups, Groups, Groups]
    """By category, shop and brand."""
    n_intentions: int
    favourites: Ints
    """(n_users, FAVOURITES) int32: the items whose category, shop and brand a user is fond of."""
    profiles: dict[str, Ints]
    """Per profile column, (n_users,) int8: its value, -1 where it is missing."""
    histories: dict[str, Ints]
    """Per history column, (n_users, FAVOURITES + OTHER_VISITS) int32: groups, -1 where none."""

    @classmethod
    def make(cls, n_items: int = REAL_ITEMS, n_users: int = REAL_USERS, seed: int = 0) -> World:
        """Draw items and users; categories, shops and brands grow with the items.

        Shops, brands and intentions keep the real number of items each, categories grow with its
        root. ``ValueError`` on fewer than 100 items or 1 user, or on more than ids can tell apart.
        """
        for name, n, least in (("n_items", n_items, 100), ("n_users", n_users, 1)):
            if not least <= n < ID_SPACE:
                raise ValueError(f"{name}: expected {least} to {ID_SPACE - 1}, got {n}")
        rng = np.random.default_rng([seed, 0])
        scale = n_items / REAL_ITEMS
        n_categories = max(10, round(REAL_CATEGORIES * scale**0.5))
        n_shops, n_brands = round(REAL_SHOPS * scale), round(REAL_BRANDS * scale)
        *groups, by_taste = draw_groups(n_items, n_categories, n_shops, n_brands, rng)
        taste = draw_tastes(n_users, by_taste, rng)
        favourites = draw_favourites(taste, by_taste, rng)
        histories = {}
        for name, one in zip(HISTORIES, groups, strict=False):
            visits = draw_visits(favourites, n_items, rng)
            histories[name] = groups_visited(visits, one.of_item[visits])
        world = cls(
            seed,
            FIRST_ID["item_id"] + rng.permutation(n_items),
            tuple(groups),
            max(3 * n_categories, round(REAL_INTENTIONS * scale)),
            favourites.astype(np.int32),
            {name: draw_profile(taste, *how, rng) for name, how in PROFILES.items()},
            histories,
        )
        visits = draw_visits(favourites, n_items, rng)
        histories["user_intentions"] = groups_visited(visits, world.intentions(visits)[0])
        return world

    @property
    def n_items(self) -> int:
        """Items in the catalog."""
        return len(self.item_ids)

    @property
    def n_users(self) -> int:
        """Users, those without id among them."""
        return len(self.favourites)

    def intentions(self, items: Ints) -> tuple[Ints, Ints]:
        """(first, count) of the intentions of items: ``count`` consecutive ones from ``first``.

        Each category has intentions of its own; an item holds one to three of them.
        """
        by_category = self.groups[0]
        category = by_category.of_item[items].astype(np.int64)
        each = self.n_intentions // by_category.n_groups
        mixed = mix(items)
        first = category * each + mixed % each
        count = np.minimum(1 + (mixed >> 20) % 3, each - mixed % each)
        return first, count

    def catalog(self, chunk: int = 1_000_000) -> Iterator[pa.Table]:
        """``item_id, item_category, item_shop, item_brand`` of every item, in chunks."""
        for start in range(0, self.n_items, chunk):
            yield pa.table(self.catalog_columns(np.arange(start, min(start + chunk, self.n_items))))

    def catalog_columns(self, items: Ints) -> dict[str, pa.Array]:
        """``item_id, item_category, item_shop, item_brand`` of items."""
        name, *group_names = CATALOG_COLUMNS
        columns = {name: pa.array(self.item_ids[items])}
        for name, one in zip(group_names, self.groups, strict=True):
            columns[name] = pa.array(one.of_item[items].astype(np.int64) + FIRST_ID[name])
        return columns


def scaled(n_rows: int) -> tuple[int, int]:
    """(items, users) that stand to ``n_rows`` as in the real set."""
    share = n_rows / REAL_ROWS
    return max(100, round(REAL_ITEMS * share)), max(10, round(REAL_USERS * share))
