"""Ali-CCP made up: its schema, cardinalities and raw format, with tastes that can be learned.

The real set needs its publisher's login, and Merlin's synthetic one has no signal. Here every item
has a category, a shop and a brand, all three of one taste; popularity follows a power law. A user
is fond of the category, shop and brand of a few items, and clicks among them, mostly on popular
ones: the best possible ranking is known (:meth:`World.best_items`), and so is its recall.

    python -m workflows.aliccp_simulate --rows 1000000 --to FOLDER [--format raw]

Memory is bounded by the catalog and the users (0.5 GB at the real 4.3M items and 0.4M users), not
by the rows: they come in chunks, each from a seed of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workflows.aliccp_data import (
    FIELDS,
    HEAD,
    ITEM_COLUMNS,
    SAMPLE_FIELDS,
    SCHEMA,
    USER_FIELDS,
    Field,
    write_parquet,
)

REAL_ITEMS, REAL_USERS, REAL_ROWS = 4_300_000, 400_000, 84_000_000
REAL_CATEGORIES, REAL_SHOPS, REAL_BRANDS, REAL_INTENTIONS = 8_581, 604_498, 208_179, 96_258
CLICK_SHARE, CONVERSION_SHARE, MISSING_USER_SHARE = 0.04, 0.0053, 0.002
ROWS_PER_SESSION = 58
SESSIONS_PER_CHUNK = 1_000
TASTES = 64
FAVOURITES = 3
FAVOURITE_SHARES = (0.5, 0.3, 0.2)
SECOND_TASTE_SHARE = 0.3
KIND_SHARES = (0.4, 0.3, 0.3)
NOISE_SHARE = 0.1
HEAD_SIZE = 5.0
OTHER_VISITS = 5
PARTS = ("train", "test")
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

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """Items by category, shop or brand; inside a group the most popular come first."""

    of_item: Ints
    """(n_items,) int32: the group of each item."""
    order: Ints
    """(n_items,) int32: items, group after group."""
    starts: Ints
    """(n_groups + 1,) int64: where each group begins in ``order``."""

    @classmethod
    def of(cls, of_item: Ints, n_groups: int) -> Groups:
        """Groups 0 to ``n_groups`` - 1 of items that are numbered by popularity."""
        order = np.argsort(of_item, kind="stable").astype(np.int32)
        counts = np.bincount(of_item, minlength=n_groups)
        return cls(of_item.astype(np.int32), order, np.concatenate([[0], np.cumsum(counts)]))

    def size(self, groups: Ints) -> Ints:
        """Items in each of ``groups``."""
        return self.starts[groups + 1] - self.starts[groups]

    def draw(self, groups: Ints, rng: np.random.Generator) -> Ints:
        """An item of each of ``groups``, none of them empty, by popularity."""
        return self.order[self.starts[groups] + draw_ranks(self.size(groups), rng)]

    def members(self, group: int) -> Ints:
        """The items of one group, the most popular first."""
        return self.order[self.starts[group] : self.starts[group + 1]]


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
        n_tastes = min(TASTES, n_categories)
        category = draw_ranks(np.full(n_items, n_categories), rng)
        taste = category % n_tastes
        by_taste = Groups.of(taste, n_tastes)
        groups = [Groups.of(category, n_categories)]
        for real in (REAL_SHOPS, REAL_BRANDS):
            n_groups = max(n_tastes, round(real * scale))
            of_item = _group_in_taste(taste, n_tastes, n_groups, rng)
            groups.append(Groups.of(of_item, n_groups))
        n_intentions = max(3 * n_categories, round(REAL_INTENTIONS * scale))
        first = _draw_tastes(n_users, by_taste, rng)
        second = _draw_tastes(n_users, by_taste, rng)
        favourites = np.stack(
            [
                by_taste.draw(np.where(rng.random(n_users) < share, second, first), rng)
                for share in (0, SECOND_TASTE_SHARE, SECOND_TASTE_SHARE)
            ],
            axis=1,
        )
        histories = {
            name: _history(one.of_item, favourites, rng)
            for name, one in zip(HISTORIES, groups, strict=False)
        }
        world = cls(
            seed,
            FIRST_ID["item_id"] + rng.permutation(n_items),
            (groups[0], groups[1], groups[2]),
            n_intentions,
            favourites.astype(np.int32),
            {name: _profile(first, *how, rng) for name, how in PROFILES.items()},
            histories,
        )
        visited = _visited(favourites, n_items, rng)
        intentions = world.intentions(visited.ravel())[0].reshape(visited.shape)
        histories["user_intentions"] = _without_repeats(np.where(visited < 0, -1, intentions))
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
        category = self.groups[0].of_item[items].astype(np.int64)
        each = self.n_intentions // len(self.groups[0].starts[1:])
        mixed = _mix(items)
        first = category * each + mixed % each
        count = np.minimum(1 + (mixed >> 20) % 3, each - mixed % each)
        return first, count

    def catalog(self, chunk: int = 1_000_000) -> Iterator[pa.Table]:
        """``item_id, item_category, item_shop, item_brand`` of every item, in chunks."""
        for start in range(0, self.n_items, chunk):
            items = np.arange(start, min(start + chunk, self.n_items))
            yield pa.table({"item_id": self.item_ids[items], **self._group_columns(items)})

    def rows(self, n_rows: int, part: str = "train") -> Iterator[pa.Table]:
        """``n_rows`` impressions of a part as tables of ``SCHEMA``, the same for the same seed."""
        for users, table in self.sessions(n_rows, part):
            yield _with_users(self.user_columns(*users), table)

    def sessions(
        self, n_rows: int, part: str
    ) -> Iterator[tuple[tuple[Ints, NDArray[np.bool_]], pa.Table]]:
        """((users of the sessions, whether they have an id), their rows) of each chunk.

        The rows' table has the sample columns and ``session``, the row of the first. The rows of a
        session follow each other.
        """
        if part not in PARTS:
            raise ValueError(f"part: expected one of {', '.join(PARTS)}; got {part!r}")
        n_done, chunk = 0, 0
        while n_done < n_rows:
            rng = np.random.default_rng([self.seed, 1 + PARTS.index(part), chunk])
            users = (self.n_users * rng.random(SESSIONS_PER_CHUNK) ** 1.5).astype(np.int64)
            has_id = rng.random(SESSIONS_PER_CHUNK) >= MISSING_USER_SHARE
            sizes = rng.geometric(1 / ROWS_PER_SESSION, SESSIONS_PER_CHUNK)
            session = np.repeat(np.arange(SESSIONS_PER_CHUNK), sizes)
            table = self._sample_columns(users[session], n_done, rng)
            table = table.append_column("session", pa.array(session)).slice(0, n_rows - n_done)
            n_done, chunk = n_done + table.num_rows, chunk + 1
            yield (users, has_id), table

    def best_items(self, user_ids: Ints, k: int) -> Ints:
        """(n, k) int64 ids of the items likeliest to be clicked, best first: what no model beats.

        ``ValueError`` on ids that are none of this world's users.
        """
        users = np.asarray(user_ids, np.int64) - FIRST_ID["user_id"]
        if len(users) and not (users.min() >= 0 and users.max() < self.n_users):
            raise ValueError(
                f"user_ids: expected {FIRST_ID['user_id']} to "
                f"{FIRST_ID['user_id'] + self.n_users - 1}, got {np.min(user_ids)} to "
                f"{np.max(user_ids)}"
            )
        k = min(k, self.n_items)
        return np.stack([self.item_ids[self._best_of_user(user, k)] for user in users])

    def _best_of_user(self, user: int, k: int) -> Ints:
        """Of every group that the user is fond of and of all items, the top k hold the best k."""
        items, shares = [np.arange(k)], [np.zeros(k)]
        for favourite, share in zip(self.favourites[user], FAVOURITE_SHARES, strict=True):
            for one, kind_share in zip(self.groups, KIND_SHARES, strict=True):
                members = one.members(int(one.of_item[favourite]))
                ranks = np.arange(len(members))
                items.append(members)
                shares.append(
                    (1 - NOISE_SHARE) * share * kind_share * rank_share(ranks, len(members))
                )
        candidates, row = np.unique(np.concatenate(items), return_inverse=True)
        total = np.bincount(row.ravel(), np.concatenate(shares))
        total += NOISE_SHARE * rank_share(candidates, self.n_items)
        return candidates[np.lexsort((candidates, -total))[:k]]

    def _sample_columns(self, users: Ints, n_done: int, rng: np.random.Generator) -> pa.Table:
        n = len(users)
        is_click = rng.random(n) < CLICK_SHARE
        items = draw_ranks(np.full(n, self.n_items), rng)
        by_taste = np.flatnonzero(is_click & (rng.random(n) >= NOISE_SHARE))
        items[by_taste] = self._draw_clicks(users[by_taste], rng)
        is_bought = is_click & (rng.random(n) < CONVERSION_SHARE)
        columns = dict(
            zip(
                [name for name, _ in HEAD],
                (np.arange(n_done + 1, n_done + n + 1), is_click, is_bought),
                strict=True,
            )
        )
        columns = {name: pa.array(columns[name]).cast(dtype) for name, dtype in HEAD}
        columns["item_id"] = pa.array(self.item_ids[items])
        columns |= self._group_columns(items)
        columns |= self._intention_columns(users, items)
        for name, history, one in zip(
            ("user_item_categories", "user_item_shops", "user_item_brands"),
            HISTORIES[:3],
            self.groups,
            strict=True,
        ):
            columns |= self._crossed(name, history, users, np.arange(n), one.of_item[items])
        columns["position"] = pa.array(FIRST_ID["position"] + rng.integers(0, 3, n))
        names = [name for name, _ in HEAD]
        names += [name for f in SAMPLE_FIELDS for name, _ in f.columns]
        return pa.table({name: columns[name] for name in names})

    def _group_columns(self, items: Ints) -> dict[str, pa.Array]:
        """``item_category, item_shop, item_brand`` of items."""
        return {
            name: pa.array(one.of_item[items].astype(np.int64) + FIRST_ID[name])
            for name, one in zip(ITEM_COLUMNS[1:], self.groups, strict=True)
        }

    def _draw_clicks(self, users: Ints, rng: np.random.Generator) -> Ints:
        """An item for each user, out of a group that he or she is fond of."""
        which = rng.choice(FAVOURITES, len(users), p=FAVOURITE_SHARES)
        favourites = self.favourites[users, which]
        kinds = rng.choice(len(KIND_SHARES), len(users), p=KIND_SHARES)
        items = np.empty(len(users), np.int64)
        for kind, one in enumerate(self.groups):
            mine = kinds == kind
            items[mine] = one.draw(one.of_item[favourites[mine]], rng)
        return items

    def _intention_columns(self, users: Ints, items: Ints) -> dict[str, pa.Array]:
        first, count = self.intentions(items)
        rows = np.repeat(np.arange(len(items)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        values = first[rows] + within
        lists = _lists(rows, values + FIRST_ID["item_intention"], len(items))
        crossed = self._crossed("user_item_intentions", HISTORIES[3], users, rows, values)
        return {"item_intention": lists, **crossed}

    def _crossed(
        self, name: str, history: str, users: Ints, rows: Ints, values: Ints
    ) -> dict[str, pa.Array]:
        """What of ``values`` of the rows is in the history of the row's user, with its weight."""
        table = self.histories[history]
        found = table[users[rows]] == values[:, None]
        at = np.flatnonzero(found.any(axis=1))
        weights = _weights(users[rows[at]], found[at].argmax(axis=1))
        n = len(users)
        return {
            name: _lists(rows[at], values[at] + FIRST_ID[name], n),
            f"{name}_weights": _lists(rows[at], weights, n),
        }

    def user_columns(self, users: Ints, has_id: NDArray[np.bool_]) -> pa.Table:
        """The columns of ``USER_FIELDS``, a row a session."""
        columns = {"user_id": pa.array(users + FIRST_ID["user_id"], mask=~has_id)}
        for name, values in self.profiles.items():
            mine = values[users].astype(np.int64)
            columns[name] = pa.array(mine + FIRST_ID[name], mask=mine < 0)
        for name, groups in self.histories.items():
            rows, at = np.nonzero(groups[users] >= 0)
            values = groups[users[rows], at].astype(np.int64) + FIRST_ID[name]
            columns[name] = _lists(rows, values, len(users))
            columns[f"{name}_weights"] = _lists(rows, _weights(users[rows], at), len(users))
        return pa.table({name: columns[name] for f in USER_FIELDS for name, _ in f.columns})


def draw_ranks(sizes: Ints, rng: np.random.Generator) -> Ints:
    """A rank from 0 to ``size`` - 1 each, by a power law: about ∝ 1 / (rank + HEAD_SIZE)."""
    drawn = HEAD_SIZE * ((sizes + HEAD_SIZE) / HEAD_SIZE) ** rng.random(len(sizes)) - HEAD_SIZE
    return np.minimum(drawn.astype(np.int64), sizes - 1)


def rank_share(ranks: Ints, size: int) -> Floats:
    """The probability with which :func:`draw_ranks` draws each of ``ranks``."""
    return np.log1p(1 / (ranks + HEAD_SIZE)) / np.log1p(size / HEAD_SIZE)


def write_raw(world: World, n_rows: int, folder: Path, part: str) -> None:
    """``sample_skeleton_{part}.csv`` and ``common_features_{part}.csv`` as the publisher's."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / f"sample_skeleton_{part}.csv").open("w", newline="\n") as skeleton,
        (folder / f"common_features_{part}.csv").open("w", newline="\n") as common,
    ):
        n_sessions = 0
        for users, rows in world.sessions(n_rows, part):
            keys = [_key(part, n_sessions + i) for i in range(len(users[0]))]
            session = rows["session"].to_pylist()
            n_used = session[-1] + 1
            _write_common(common, keys[:n_used], world.user_columns(*users).slice(0, n_used))
            _write_skeleton(skeleton, [keys[i] for i in session], rows)
            n_sessions += len(keys)


def write_all(
    world: World, folder: Path, rows: dict[str, int], file_format: str = "parquet"
) -> None:
    """``train/`` and ``test/`` of the given numbers of rows, and the catalog in ``items/``."""
    for part, n_rows in rows.items():
        if file_format == "raw":
            write_raw(world, n_rows, folder / part, part)
        else:
            write_parquet(world.rows(n_rows, part), folder / part)
    write_parquet(world.catalog(), folder / "items", rows=world.n_items)


def scaled(n_rows: int) -> tuple[int, int]:
    """(items, users) that stand to ``n_rows`` as in the real set."""
    share = n_rows / REAL_ROWS
    return max(100, round(REAL_ITEMS * share)), max(10, round(REAL_USERS * share))


def _write_common(file: TextIO, keys: list[str], users: pa.Table) -> None:
    for key, features in zip(keys, _feature_texts(users, USER_FIELDS), strict=True):
        file.write(f"{key},{len(features)},{chr(1).join(features)}\n")


def _write_skeleton(file: TextIO, keys: list[str], rows: pa.Table) -> None:
    heads = zip(*(rows[name].to_pylist() for name, _ in HEAD), strict=True)
    texts = _feature_texts(rows, SAMPLE_FIELDS)
    for (sample, click, bought), key, features in zip(heads, keys, texts, strict=True):
        file.write(f"{sample},{click},{bought},{key},{len(features)},{chr(1).join(features)}\n")


def _feature_texts(table: pa.Table, fields: tuple[Field, ...]) -> list[list[str]]:
    """The features of each row as raw text."""
    texts: list[list[str]] = [[] for _ in range(table.num_rows)]
    for one in fields:
        values = table[one.name].to_pylist()
        weights = table[one.weights].to_pylist() if one.is_weighted else [None] * len(values)
        for row, value, weight in zip(texts, values, weights, strict=True):
            ids = (value if one.is_list else [value]) if value is not None else []
            for at, number in enumerate(ids):
                text = "1.0" if weight is None else f"{weight[at]:.4f}"
                row.append(f"{one.number}\x02{number}\x03{text}")
    return texts


def _with_users(users: pa.Table, rows: pa.Table) -> pa.Table:
    """Rows with the user columns of their session, in the order of ``SCHEMA``."""
    users = users.take(rows["session"].combine_chunks())
    for name in users.column_names:
        rows = rows.append_column(name, users[name])
    return rows.select(SCHEMA.names).cast(SCHEMA)


def _key(part: str, session: int) -> str:
    """The common feature key: 16 hexadecimal digits, another for every session."""
    number = np.array([session + (PARTS.index(part) << 40)])
    return f"{int(_mix(number)[0]):015x}{PARTS.index(part):x}"


def _mix(numbers: Ints) -> Ints:
    """Whole numbers to others without visible order, one to one: 60 bits (multiply, xor, shift)."""
    mask = np.uint64((1 << 60) - 1)
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) & mask
    mixed ^= mixed >> np.uint64(29)
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9) & mask
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.int64)


def _weights(users: Ints, at: Ints) -> NDArray[np.float32]:
    """Weights of histories: favourites, which come first in them, have the greater ones."""
    noise = (_mix(users * 16 + at) % 100) / 100
    base = np.where(at < FAVOURITES, 2.0 - 0.4 * np.minimum(at, FAVOURITES), 0.2)
    return np.round(base + 0.3 * noise, 4).astype(np.float32)


def _lists(rows: Ints, values: NDArray[np.generic], n_rows: int) -> pa.Array:
    """A list per row out of values in the order of ``rows``."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _group_in_taste(taste: Ints, n_tastes: int, n_groups: int, rng: np.random.Generator) -> Ints:
    """A shop or brand for every item, of the item's taste: group g has taste g mod n_tastes."""
    n_in_taste = (n_groups - taste + n_tastes - 1) // n_tastes
    return taste + n_tastes * draw_ranks(n_in_taste, rng)


def _draw_tastes(n_users: int, by_taste: Groups, rng: np.random.Generator) -> Ints:
    """A taste a user, as often as items have it."""
    return by_taste.of_item[rng.integers(0, len(by_taste.of_item), n_users)].astype(np.int64)


def _history(of_item: Ints, favourites: Ints, rng: np.random.Generator) -> Ints:
    """Groups of the items that each user has visited, -1 where there is none."""
    visited = _visited(favourites, len(of_item), rng)
    return _without_repeats(np.where(visited < 0, -1, of_item[visited]))


def _visited(favourites: Ints, n_items: int, rng: np.random.Generator) -> Ints:
    """(n_users, FAVOURITES + OTHER_VISITS): favourites, then up to so many popular items, or -1."""
    n_users = len(favourites)
    others = draw_ranks(np.full(n_users * OTHER_VISITS, n_items), rng)
    n_others = rng.integers(0, OTHER_VISITS + 1, (n_users, 1))
    is_visit = np.arange(OTHER_VISITS) < n_others
    return np.hstack([favourites, np.where(is_visit, others.reshape(n_users, -1), -1)])


def _without_repeats(groups: Ints) -> Ints:
    """Rows with -1 in the place of a group that came before."""
    groups = groups.astype(np.int32)
    for at in range(1, groups.shape[1]):
        groups[(groups[:, :at] == groups[:, at : at + 1]).any(axis=1), at] = -1
    return groups


def _profile(
    taste: Ints, n_values: int, missing_share: float, taste_share: float, rng: np.random.Generator
) -> Ints:
    n_users = len(taste)
    follows = rng.random(n_users) < taste_share
    values = np.where(follows, taste % n_values, rng.integers(0, n_values, n_users))
    return np.where(rng.random(n_users) < missing_share, -1, values).astype(np.int8)


def main(arguments: list[str] | None = None) -> None:
    """Write a data set from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--to", type=Path, required=True, help="folder for train, test and items")
    parser.add_argument("--rows", type=int, default=1_000_000, help="training rows; half as test")
    parser.add_argument("--items", type=int, help="else as many a row as in the real set")
    parser.add_argument("--users", type=int, help="else as many a row as in the real set")
    parser.add_argument("--format", choices=("parquet", "raw"), default="parquet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    items, users = scaled(options.rows)
    world = World.make(options.items or items, options.users or users, options.seed)
    rows = {"train": options.rows, "test": options.rows // 2}
    write_all(world, options.to, rows, options.format)
    print(f"{options.to}: {world.n_items:,} items, {world.n_users:,} users, rows {rows}")


if __name__ == "__main__":
    main()
