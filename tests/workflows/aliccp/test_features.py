"""Ali-CCP through NVTabular: features of awkward rows, and of real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

pytest.importorskip("tensorflow")

from merlin.schema import Tags

from merlin_poeem.datasets.aliccp.fields import SCHEMA
from merlin_poeem.datasets.aliccp.parquet import write_parquet
from merlin_poeem.datasets.aliccp.samples import read_samples
from workflows.aliccp import features as aliccp_features
from workflows.aliccp.features import (
    COLUMNS,
    ITEM_COLUMNS,
    USER_COLUMNS,
    USER_LISTS,
    Features,
    make_features,
)
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import World

UNKNOWN = 2
"""NVTabular's number of what the workflow has not been fitted on."""


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(2_000, 150, seed=1)


@pytest.fixture(scope="module")
def rows(world: World) -> pa.Table:
    return pa.concat_tables(draw_rows(world, 20_000))


@pytest.fixture(scope="module")
def features(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Features:
    return fit([rows], tmp_path_factory.mktemp("features"))


def fit(parts: list[pa.Table], folder: Path) -> Features:
    write_parquet(parts, folder / "train", rows=1)
    (folder / "work").mkdir()
    return make_features(folder / "train", folder / "work")


def numbers(features: Features) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, sorted(features.train.glob("*.parquet"))))


def clicks_of(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["click"], 1))


def with_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def test_schema_tags_both_towers(features: Features) -> None:
    schema = features.schema
    assert schema.select_by_tag(Tags.USER_ID).column_names == ["user"]
    assert schema.select_by_tag(Tags.ITEM_ID).column_names == ["item"]
    assert len(USER_COLUMNS) == 11
    assert set(schema.select_by_tag(Tags.USER).column_names) == {"user", *USER_COLUMNS}
    assert set(schema.select_by_tag(Tags.ITEM).column_names) == {"item", *ITEM_COLUMNS}
    assert {name for name in schema.column_names if schema[name].is_list} == set(USER_LISTS)


def test_clicks_alone_are_trained_on(features: Features, rows: pa.Table) -> None:
    clicks = clicks_of(rows)
    found = numbers(features)
    assert len(found) == features.n_train == len(clicks)
    assert found["item"].nunique() == len(clicks["item_id"].unique())
    counts = np.sort(clicks["item_id"].to_pandas().value_counts())
    frequencies = features.item_frequencies
    np.testing.assert_array_equal(np.sort(frequencies[frequencies > 0]), counts)


def test_every_value_of_a_list_is_numbered(features: Features, rows: pa.Table) -> None:
    lengths = clicks_of(rows)["user_categories"].combine_chunks().value_lengths()
    found = numbers(features)["user_categories"].map(len)
    assert sorted(found) == sorted(lengths.to_pylist())


def test_a_click_without_user_id_stays(rows: pa.Table, tmp_path: Path) -> None:
    clicks = clicks_of(rows)
    anonymous = np.arange(len(clicks)) % 4 == 0
    ids = pc.if_else(pa.array(anonymous), pa.scalar(None, pa.int64()), clicks["user_id"])
    anonymous |= ids.is_null().to_numpy()
    rows = with_column(clicks, "user_id", ids)
    features = fit([rows], tmp_path)
    assert features.n_train == len(clicks)
    of_nobody = features.users(rows.slice(0, 1).to_pandas())["user"][0]
    assert of_nobody > UNKNOWN
    assert (numbers(features)["user"] == of_nobody).sum() == anonymous.sum()


def test_clicks_without_item_id_are_left_out(rows: pa.Table, tmp_path: Path) -> None:
    clicks = clicks_of(rows)
    ids = clicks["item_id"].to_numpy()
    mask = np.arange(len(clicks)) < 5
    features = fit([with_column(clicks, "item_id", pa.array(ids, mask=mask))], tmp_path)
    assert features.n_train == len(clicks) - 5


def test_partitions_without_clicks_or_values(
    rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliccp_features, "PART_BYTES", "10KB")
    clicks = clicks_of(rows)
    bare = clicks.slice(0, 3)
    for name in ("user_id", "user_age", "item_brand"):
        bare = with_column(bare, name, pa.nulls(3, pa.int64()))
    for name in USER_LISTS:
        bare = with_column(bare, name, pa.array([[]] * 3, pa.list_(pa.int64())))
    unclicked = rows.filter(pc.equal(rows["click"], 0)).slice(0, 100)
    features = fit([bare, unclicked, clicks, unclicked, bare], tmp_path)
    assert features.n_train == len(clicks) + 6
    found = features.users(bare.to_pandas())
    assert found["user_shops"].map(len).tolist() == [1, 1, 1]
    assert found["user_id"].isna().all()


def test_no_clicks(rows: pa.Table, tmp_path: Path) -> None:
    unclicked = rows.filter(pc.equal(rows["click"], 0))
    with pytest.raises(ValueError, match=r"train: expected clicks, got none"):
        fit([unclicked], tmp_path)


def test_unknown_ids_are_placed_by_their_features(features: Features, world: World) -> None:
    catalog = pa.concat_tables(world.catalog()).to_pandas()
    found = features.items(catalog)
    np.testing.assert_array_equal(found["item_id"], catalog["item_id"])
    is_unknown = found["item"] == UNKNOWN
    assert is_unknown.sum() == len(catalog) - (features.item_frequencies > 0).sum()
    assert (found["item_category"][is_unknown] != UNKNOWN).mean() > 0.7


def test_missing_columns_are_named(features: Features) -> None:
    with pytest.raises(ValueError, match=r"items: expected the columns \['item_brand'\], got"):
        features.items(pd.DataFrame({n: [1] for n in COLUMNS if n != "item_brand"}))


@pytest.mark.parametrize(
    "name", ["torch_rechub_ali_ccp_train_sample.csv", "paddlerec_esmm_train_small.txt"]
)
def test_real_rows_become_features(
    dataset_dir: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    rows = pa.concat_tables(read_samples(dataset_dir("ali-ccp") / name))
    features = fit([rows], tmp_path)
    clicks = clicks_of(rows)
    assert features.n_train == len(clicks) - clicks["item_id"].null_count
    assert set(numbers(features)) == set(features.schema.column_names)
    items = pq.read_table(tmp_path / "train", schema=SCHEMA).to_pandas()
    assert len(features.items(items)) == len(rows)
