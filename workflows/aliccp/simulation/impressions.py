"""A made-up Ali-CCP's rows: users come in sessions, see items and click on some.

Rows come in chunks, each from a seed of its own, so memory is not bounded by their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from merlin_poeem.datasets.aliccp.fields import (
    HEAD,
    SAMPLE_FIELDS,
    SCHEMA,
    USER_FIELDS,
    list_column,
)
from workflows.aliccp.simulation.clicks import draw_items
from workflows.aliccp.simulation.groups import Ints
from workflows.aliccp.simulation.mix import mix
from workflows.aliccp.simulation.tastes import FAVOURITES
from workflows.aliccp.simulation.world import FIRST_ID, HISTORIES, World

CLICK_SHARE, CONVERSION_SHARE, MISSING_USER_SHARE = 0.04, 0.0053, 0.002
ROWS_PER_SESSION = 58
SESSIONS_PER_CHUNK = 1_000
PARTS = ("train", "test")


class Sessions(NamedTuple):
    """A chunk of sessions and their rows; where the last rows are cut off, sessions have none."""

    users: pa.Table
    """The columns of ``USER_FIELDS``, a row a session."""
    session: Ints
    """(n_rows,) the session of each row; a session's rows follow each other."""
    rows: pa.Table
    """(n_rows, ...) the head and the columns of ``SAMPLE_FIELDS``."""


def draw_rows(world: World, n_rows: int, part: str = "train") -> Iterator[pa.Table]:
    """``n_rows`` impressions of a part as tables of ``SCHEMA``, the same for the same seed."""
    for users, session, rows in draw_sessions(world, n_rows, part):
        of_rows = users.take(pa.array(session))
        for name in of_rows.column_names:
            rows = rows.append_column(name, of_rows[name])
        yield rows.select(SCHEMA.names).cast(SCHEMA)


def draw_sessions(world: World, n_rows: int, part: str) -> Iterator[Sessions]:
    """``n_rows`` impressions of a part, chunk by chunk; ``ValueError`` on an unknown part."""
    if part not in PARTS:
        raise ValueError(f"part: expected one of {', '.join(PARTS)}; got {part!r}")
    n_done, chunk = 0, 0
    while n_done < n_rows:
        rng = np.random.default_rng([world.seed, 1 + PARTS.index(part), chunk])
        users = (world.n_users * rng.random(SESSIONS_PER_CHUNK) ** 1.5).astype(np.int64)
        has_id = rng.random(SESSIONS_PER_CHUNK) >= MISSING_USER_SHARE
        sizes = rng.geometric(1 / ROWS_PER_SESSION, SESSIONS_PER_CHUNK)
        session = np.repeat(np.arange(SESSIONS_PER_CHUNK), sizes)
        rows = _sample_table(world, users[session], n_done, rng).slice(0, n_rows - n_done)
        yield Sessions(_user_table(world, users, has_id), session[: len(rows)], rows)
        n_done, chunk = n_done + len(rows), chunk + 1


def _sample_table(world: World, users: Ints, n_done: int, rng: np.random.Generator) -> pa.Table:
    n = len(users)
    is_click = rng.random(n) < CLICK_SHARE
    items = draw_items(world, users, is_click, rng)
    is_bought = is_click & (rng.random(n) < CONVERSION_SHARE)
    heads = (np.arange(n_done + 1, n_done + n + 1), is_click, is_bought)
    columns = {
        name: pa.array(values).cast(dtype)
        for (name, dtype), values in zip(HEAD, heads, strict=True)
    }
    columns |= world.catalog_columns(items)
    columns |= _crossed_columns(world, users, items)
    columns["position"] = pa.array(FIRST_ID["position"] + rng.integers(0, 3, n))
    names = [name for name, _ in HEAD]
    names += [name for f in SAMPLE_FIELDS for name, _ in f.columns]
    return pa.table({name: columns[name] for name in names})


def _crossed_columns(world: World, users: Ints, items: Ints) -> dict[str, pa.Array]:
    """The items' intentions, and what of the items' groups is in the users' histories."""
    first, count = world.intentions(items)
    rows = np.repeat(np.arange(len(items)), count)
    intentions = first[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    lists = list_column(rows, intentions + FIRST_ID["item_intention"], len(items))
    of_rows = [(np.arange(len(items)), one.of_item[items]) for one in world.groups]
    columns = {"item_intention": lists}
    for history, (at, values) in zip(HISTORIES, [*of_rows, (rows, intentions)], strict=True):
        columns |= _crossed(world, history, users, at, values)
    return columns


def _crossed(
    world: World, history: str, users: Ints, rows: Ints, values: Ints
) -> dict[str, pa.Array]:
    """What of ``values`` of the rows is in the history of the row's user, with its weight."""
    name = history.replace("user_", "user_item_")
    found = world.histories[history][users[rows]] == values[:, None]
    at = np.flatnonzero(found.any(axis=1))
    weights = _weights(users[rows[at]], found[at].argmax(axis=1))
    return {
        name: list_column(rows[at], values[at] + FIRST_ID[name], len(users)),
        f"{name}_weights": list_column(rows[at], weights, len(users)),
    }


def _user_table(world: World, users: Ints, has_id: NDArray[np.bool_]) -> pa.Table:
    """The columns of ``USER_FIELDS``, a row a session."""
    columns = {"user_id": pa.array(users + FIRST_ID["user_id"], mask=~has_id)}
    for name, values in world.profiles.items():
        mine = values[users].astype(np.int64)
        columns[name] = pa.array(mine + FIRST_ID[name], mask=mine < 0)
    for name, groups in world.histories.items():
        rows, at = np.nonzero(groups[users] >= 0)
        values = groups[users[rows], at].astype(np.int64) + FIRST_ID[name]
        columns[name] = list_column(rows, values, len(users))
        columns[f"{name}_weights"] = list_column(rows, _weights(users[rows], at), len(users))
    return pa.table({name: columns[name] for f in USER_FIELDS for name, _ in f.columns})


def _weights(users: Ints, at: Ints) -> NDArray[np.float32]:
    """Weights of histories: favourites, which come first in them, have the greater ones."""
    noise = (mix(users * 16 + at) % 100) / 100
    base = np.where(at < FAVOURITES, 2.0 - 0.4 * np.minimum(at, FAVOURITES), 0.2)
    return np.round(base + 0.3 * noise, 4).astype(np.float32)
