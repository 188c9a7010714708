"""Made-up rows: seeded, in chunks, with the shares of the real set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import FIRST_ID, World


def test_seeds(world: World) -> None:
    rows = pa.concat_tables(draw_rows(world, 500))
    assert pa.concat_tables(draw_rows(World.make(600, 80, seed=5), 500)).equals(rows)
    assert not pa.concat_tables(draw_rows(World.make(600, 80, seed=6), 500)).equals(rows)
    assert not pa.concat_tables(draw_rows(world, 500, "test")).equals(rows)
    assert pa.concat_tables(draw_rows(world, 3_000)).slice(0, 500).equals(rows)


def test_rows_come_in_chunks(world: World) -> None:
    tables = list(draw_rows(world, 150_000))
    assert len(tables) > 1
    ids = np.concatenate([table["sample_id"].to_numpy() for table in tables])
    np.testing.assert_array_equal(ids, np.arange(1, 150_001))


def test_shares_are_the_real_ones() -> None:
    rows = pa.concat_tables(draw_rows(World.make(20_000, 2_000), 400_000))
    assert np.mean(rows["click"].to_numpy()) == pytest.approx(0.04, rel=0.05)
    assert rows["user_id"].null_count / len(rows) == pytest.approx(0.002, rel=0.7)
    assert not np.any(rows["conversion"].to_numpy() > rows["click"].to_numpy())
    assert np.sum(rows["conversion"].to_numpy()) > 20
    counts = rows["item_id"].to_pandas().value_counts().to_numpy()
    assert counts[:200].sum() > 0.4 * counts.sum()
    lengths = rows["item_intention"].combine_chunks().value_lengths()
    assert set(lengths.to_pylist()) == {1, 2, 3}


def test_crossed_fields_are_of_the_users_history(world: World) -> None:
    for history, crossed, item in (
        ("user_categories", "user_item_categories", "item_category"),
        ("user_intentions", "user_item_intentions", "item_intention"),
    ):
        for row in pa.concat_tables(draw_rows(world, 300)).to_pylist():
            of_item = row[item] if isinstance(row[item], list) else [row[item]]
            visited = {value - FIRST_ID[history] for value in row[history]}
            expected = {v - FIRST_ID[item] for v in of_item} & visited
            assert {v - FIRST_ID[crossed] for v in row[crossed]} == expected
            weights = dict(zip(row[history], row[f"{history}_weights"], strict=True))
            for value, weight in zip(row[crossed], row[f"{crossed}_weights"], strict=True):
                assert weights[value - FIRST_ID[crossed] + FIRST_ID[history]] == weight


def test_unknown_parts_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="expected one of train, test; got 'valid'"):
        list(draw_rows(world, 5, "valid"))
