"""MovieLens through NVTabular: tagged columns, ids that map back, the catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from merlin.schema import Tags

from workflows.movielens.data import MovieLens, read
from workflows.movielens.features import make_features


@pytest.fixture
def data(ml_1m: Path) -> MovieLens:
    return read(ml_1m, "1m")


def test_schema_tags_both_towers(data: MovieLens) -> None:
    schema = make_features(data).schema
    assert schema.select_by_tag(Tags.USER_ID).column_names == ["user"]
    assert schema.select_by_tag(Tags.ITEM_ID).column_names == ["item"]
    user = {"user", "gender", "age", "occupation", "zip"}
    assert set(schema.select_by_tag(Tags.USER).column_names) == user
    assert set(schema.select_by_tag(Tags.ITEM).column_names) == {"item", "year", "genres"}
    assert schema["genres"].is_list


def test_numbers_map_back_to_the_ids(data: MovieLens) -> None:
    features = make_features(data)
    users = features.users.set_index("user")["user_id"]
    items = features.items.set_index("item")["item_id"]
    assert users.index.is_unique
    assert items.index.is_unique
    found = zip(users[features.train["user"]], items[features.train["item"]], strict=True)
    assert sorted(found) == sorted(data.train.itertuples(index=False, name=None))


def test_the_catalog_is_what_was_rated_in_training(data: MovieLens) -> None:
    held_out = data.train["item_id"] == data.train["item_id"][0]
    data = MovieLens(data.name, data.train[~held_out], data.test, data.users, data.items)
    features = make_features(data)
    assert set(features.items["item_id"]) == set(data.train["item_id"])
    counts = data.train["item_id"].value_counts()
    np.testing.assert_array_equal(
        features.item_frequencies[features.items["item"]], counts[features.items["item_id"]]
    )
