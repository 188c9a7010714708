"""Who is judged, by which clicks; and what no model beats, where the rows are made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from merlin_poeem.arrays import Int64
from merlin_poeem.datasets.aliccp.parquet import read_parquet
from workflows.aliccp.features import COLUMNS, USER_COLUMNS, Features
from workflows.aliccp.simulation.clicks import best_items
from workflows.aliccp.simulation.world import World
from workflows.comparison import Comparison
from workflows.judged import Judged, items_of

TEST_SHARE = 0.2
JUDGED_USERS = 2_000
K = 100


def test_clicks(folder: Path) -> pd.DataFrame:
    """The clicks among the rows of the test."""
    return pa.concat_tables(_clicks(folder / "test")).to_pandas()


def _clicks(folder: Path) -> Iterator[pa.Table]:
    for table in read_parquet(folder):
        yield table.filter(pc.equal(table["click"], 1)).select(COLUMNS)


def judged_users(clicks: pd.DataFrame, features: Features, n_users: int, seed: int) -> Judged:
    """``n_users`` drawn from those of the test clicks; what they clicked they may click again.

    ``ValueError`` where no user has an id.
    """
    ids = ["user_id", "item_id"]
    clicks = clicks.dropna(subset=ids).astype(dict.fromkeys(ids, np.int64))
    rows = clicks.drop_duplicates("user_id")
    if not len(rows):
        raise ValueError("test: expected clicks of users with an id, got none")
    rows = rows.sample(min(n_users, len(rows)), random_state=seed).reset_index(drop=True)
    users = features.users(rows[["user_id", *USER_COLUMNS]])
    relevant = items_of(rows["user_id"], clicks[ids].drop_duplicates())
    return Judged(users, relevant, None, K)


def add_bounds(comparison: Comparison, judged: Judged, world: World) -> None:
    """What the simulator knows: the best ranking for every user, and the most popular items."""
    best = best_items(world, judged.users["user_id"].to_numpy(), K)
    _add_bound(comparison, judged, "best possible", best)
    popular = np.tile(world.item_ids[:K], (len(best), 1))
    _add_bound(comparison, judged, "most popular", popular)


def _add_bound(comparison: Comparison, judged: Judged, method: str, item_ids: Int64) -> None:
    """A row for (n_users, K) items that no model has found."""
    quality = judged.quality(item_ids)
    blank = dict.fromkeys(comparison.rows[0])
    comparison.rows.append({**blank, "method": method, "seed": comparison.seed, **quality})
