"""The clicks of a simulated Ali-CCP: those to train on, and those to be found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.quality.parts import TEST, held_out
from workflows.aliccp.judging import TEST_SHARE
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import World, scaled


@dataclass(frozen=True)
class Clicks:
    """Raw rows; those without a user's id are among the ones to train on."""

    train: pa.Table
    found: pa.Table
    catalog: pd.DataFrame
    """``item_id`` and the item columns of every item, clicked or not."""

    @classmethod
    def of(cls, part: str, n_rows: int) -> Clicks:
        """From ``n_rows`` impressions; those of the test are drawn for no other part."""
        world = World.make(*scaled(n_rows))
        train = _clicks(world, n_rows, "train")
        if part == TEST:
            found = _clicks(world, int(TEST_SHARE * n_rows), "test")
        else:
            rows = pd.DataFrame({"user_id": train["user_id"].to_pandas()})
            known = rows.assign(row=np.arange(len(rows))).dropna(subset="user_id")
            held = np.sort(held_out(known)[1]["row"])
            found = train.take(pa.array(held))
            train = train.take(pa.array(np.setdiff1d(np.arange(len(rows)), held)))
        return cls(train, found, pa.concat_tables(world.catalog()).to_pandas())


def _clicks(world: World, n_rows: int, part: str) -> pa.Table:
    tables = draw_rows(world, n_rows, part)
    return pa.concat_tables(table.filter(pc.equal(table["click"], 1)) for table in tables)
