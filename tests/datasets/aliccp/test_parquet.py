"""Ali-CCP in parquet files: our own and Merlin's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from merlin_poeem.datasets.aliccp.fields import SCHEMA
from merlin_poeem.datasets.aliccp.parquet import read_parquet, write_parquet
from merlin_poeem.datasets.aliccp.report import Report
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import World

ROWS = 3_000


def test_as_written_here(world: World, tmp_path: Path) -> None:
    expected = pa.concat_tables(draw_rows(world, ROWS))
    parts = [expected.slice(start, 500) for start in range(0, ROWS, 500)]
    assert write_parquet(parts, tmp_path, rows=1_000) == ROWS
    assert len(list(tmp_path.iterdir())) == 3
    report = Report()
    tables = list(read_parquet(tmp_path, report=report, rows=700))
    assert max(table.num_rows for table in tables) <= 700
    assert pa.concat_tables(tables).equals(expected)
    assert report.n_rows == ROWS
    with pytest.raises(FileExistsError, match="expected no parquet files, got some"):
        write_parquet(draw_rows(world, ROWS), tmp_path)


@pytest.fixture
def merlin() -> pd.DataFrame:
    """As Merlin writes it: one value a field, floats where some are missing."""
    names = [n for n in SCHEMA.names if n != "sample_id" and not n.endswith("_weights")]
    frame = pd.DataFrame({name: np.array([0, 1], np.int32) for name in names})
    missing = np.array([np.nan, 354229.0])
    return frame.assign(user_id=missing, user_item_brands=missing, item_id=[2**40, 7])


def test_as_merlin_writes_it(merlin: pd.DataFrame, tmp_path: Path) -> None:
    merlin.to_parquet(tmp_path / "train_0.parquet")
    merlin.to_parquet(tmp_path / "train_1.parquet")
    rows = pa.concat_tables(read_parquet(tmp_path)).to_pydict()
    assert rows["sample_id"] == [1, 2, 3, 4]
    assert rows["user_id"] == [None, 354229] * 2
    assert rows["item_id"] == [2**40, 7] * 2
    assert rows["user_item_brands"] == [[], [354229]] * 2
    assert rows["user_categories"] == [[0], [1]] * 2
    assert rows["user_categories_weights"] == [None] * 4


def test_missing_columns_are_named(merlin: pd.DataFrame, tmp_path: Path) -> None:
    merlin.drop(columns=["user_id", "click"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: expected the columns \['click', 'user_"):
        pa.concat_tables(read_parquet(tmp_path))


def test_values_that_are_no_ids(merlin: pd.DataFrame, tmp_path: Path) -> None:
    merlin.assign(item_shop=[0.5, 1]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="item_shop: expected whole numbers"):
        pa.concat_tables(read_parquet(tmp_path))


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected parquet files, got none"):
        pa.concat_tables(read_parquet(tmp_path))
