"""A frame's columns as a tower's tensors: those of Merlin's loader, and what is refused."""

from __future__ import annotations

from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.blocks import export_index, item_vectors, query_vectors
from merlin_poeem.blocks.export import tower_rows
from merlin_poeem.blocks.export.features import Feature, batches, features_of
from merlin_poeem.blocks.model.towers import query_tower_of
from tests.blocks import toy

LISTS: dict[str, Any] = {"dims": (None, (0, None))}
N_GENRES = 9
GENRES = {"domain": {"min": 0, "max": N_GENRES - 1, "name": "genres"}}
SCHEMA = Schema(
    [
        toy.column("item_id", toy.N_ITEMS, Tags.ITEM, Tags.ITEM_ID),
        ColumnSchema("genres", [Tags.ITEM, Tags.CATEGORICAL], GENRES, np.int64, **LISTS),
        ColumnSchema("price", [Tags.ITEM, Tags.CONTINUOUS], dtype=np.float32),
    ]
)
FEATURES = [Feature.of(column) for column in SCHEMA]
N = 10


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    genres = [rng.integers(0, N_GENRES, n % 3 + 1) for n in range(N)]
    price = rng.normal(size=N).astype(np.float32)
    return pd.DataFrame({"item_id": np.arange(N), "genres": genres, "price": price})


def tensors_of(given_frame: pd.DataFrame, batch_size: int) -> list[dict[str, np.ndarray]]:
    return [
        {name: tensor.numpy() for name, tensor in tensors.items()}
        for _, tensors in batches(FEATURES, given_frame, batch_size)
    ]


@given(batch_size=st.integers(1, N + 2), n_rows=st.integers(1, N))
def test_they_are_those_of_merlins_loader(batch_size: int, n_rows: int) -> None:
    rows = frame()[::-1][:n_rows].reset_index(drop=True)
    loader = mm.Loader(Dataset(rows, schema=SCHEMA), batch_size=batch_size, shuffle=False)
    expected = [features for features, _ in loader]
    got = tensors_of(rows, batch_size)
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert set(ours) == set(theirs)
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(ours[name], tensor.numpy())
            assert ours[name].dtype == tensor.numpy().dtype, name


@given(lengths=st.lists(st.integers(0, 2), min_size=1), batch_size=st.integers(1, 5))
def test_lists_that_are_empty_in_a_batch_or_in_all(lengths: list[int], batch_size: int) -> None:
    """Of a batch of empty lists Merlin's loader knows no dtype: ``KeyError: 0``."""
    lists = [np.arange(n) for n in lengths]
    rows = pd.DataFrame({"item_id": 0, "genres": lists, "price": 0.5})
    got = tensors_of(rows, batch_size)
    values = np.concatenate([tensors["genres__values"] for tensors in got])
    assert values.dtype == np.int64
    np.testing.assert_array_equal(values, np.concatenate(lists))
    counts = np.concatenate([np.diff(tensors["genres__offsets"]) for tensors in got])
    np.testing.assert_array_equal(counts, lengths)


@pytest.mark.parametrize("dtype", [object, "float64", "str"])
def test_a_partition_without_rows_of_any_dtype(dtype: str) -> None:
    assert tensors_of(frame()[:0].astype(dtype), 3) == []


@given(row=st.integers(0, N - 1), batch_size=st.integers(1, N))
def test_the_first_wrong_row_is_named_whatever_the_batches(row: int, batch_size: int) -> None:
    def changed(name: str, value: Any) -> pd.DataFrame:
        column = frame()[name].astype(object)
        column.iat[row] = value
        return frame().assign(**{name: column})

    for name, value, message in (
        ("item_id", None, "expected no nulls, got 1, first"),
        ("item_id", toy.N_ITEMS, "from 0 to 49, the schema's domain, got 50"),
        ("item_id", -1, "from 0 to 49, the schema's domain, got -1"),
        ("genres", None, "expected no nulls, got one"),
        ("genres", np.array([1, 2, N_GENRES]), "from 0 to 8, the schema's domain, got 9"),
        ("price", np.nan, "expected no nulls, got 1, first"),
        ("price", np.inf, "expected finite values, got inf"),
        ("price", 1e39, r"expected finite values, got 1e\+39"),
    ):
        with pytest.raises(ValueError, match=rf"column '{name}': .*{message} in row {row}"):
            tensors_of(changed(name, value), batch_size)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("item_id", np.arange(N) / 1, "'item_id': expected int64, got float64"),
        ("item_id", [f"item {i}" for i in range(N)], "'item_id': expected int64, got str"),
        ("price", [f"{i} $" for i in range(N)], "'price': expected float32, got str"),
        ("genres", np.arange(N), "'genres': expected lists of numbers, got int64"),
        ("genres", [["a"]] * N, "'genres': expected lists of numbers, got list<"),
    ],
)
def test_columns_of_another_kind(column: str, values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tensors_of(frame().assign(**{column: values}), 4)


def test_columns_as_pandas_has_them() -> None:
    expected = tensors_of(frame(), N)[0]
    given_frame = frame().astype({"item_id": "Int64", "price": "float64"}).astype({"price": object})
    for as_given in (given_frame, given_frame.astype({"item_id": "uint8"})):
        got = tensors_of(as_given, N)[0]
        for name, tensor in expected.items():
            np.testing.assert_array_equal(got[name], tensor)
            assert got[name].dtype == tensor.dtype


def test_a_schema_without_dtypes() -> None:
    schema = Schema([ColumnSchema("item_id", tags=[Tags.ITEM, Tags.ITEM_ID])])
    (_, tensors), *_ = batches([Feature.of(column) for column in schema], frame(), N)
    np.testing.assert_array_equal(tensors["item_id"].numpy(), np.arange(N))
    with pytest.raises(TypeError, match="'item_id': expected numbers, got str"):
        list(batches([Feature.of(schema["item_id"])], frame().astype({"item_id": str}), N))
    with pytest.raises(ValueError, match="expected a dtype of numbers for column 'item_id'"):
        features_of(schema)


def test_export_names_the_row_of_the_frame() -> None:
    model = toy.trained_model(toy.v1)
    nulls = toy.ITEMS["category"].where(toy.ITEMS["item_id"] != 40)
    with pytest.raises(ValueError, match="'category': expected no nulls, got 1, first in row 40"):
        export_index(model, toy.ITEMS.assign(category=nulls), batch_size=16)
    repeated = pd.concat([toy.ITEMS[:2], toy.ITEMS.assign(category=nulls)])
    with pytest.raises(ValueError, match=r"first in row 40.*; rows that repeat an id are"):
        export_index(model, repeated, batch_size=16)
    with pytest.raises(ValueError, match=r"from 0 to 59, the schema's domain, got 60 in row 1"):
        query_vectors(model, pd.DataFrame({"user_id": [0, toy.N_USERS]}))


def test_queries_named_by_texts() -> None:
    model = toy.trained_model(toy.v1)
    names = [f"user {i}" for i in range(toy.N_USERS)]
    ids, vectors = query_vectors(model, toy.USERS.assign(name=names), id_column="name")
    assert ids.tolist() == names
    np.testing.assert_array_equal(vectors, query_vectors(model, toy.USERS)[1])
    with pytest.raises(ValueError, match="'name': expected no nulls, got 1, first in row 3"):
        query_vectors(model, toy.USERS[:4].assign(name=[*names[:3], None]), id_column="name")


def test_towers_of_half_precision_give_float32() -> None:
    model = toy.trained_model(toy.v1)
    _, expected = item_vectors(model, toy.ITEMS)

    def half(features: Any, training: bool) -> Any:
        return tf.cast(tower(features, training=training), tf.float16)

    tower = query_tower_of(model)
    half.schema = tower.schema  # type: ignore[attr-defined]
    (_, got), *_ = tower_rows.tower_batches(half, toy.USERS, toy.USERS["user_id"].to_numpy(), 100)
    assert got.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(got, query_vectors(model, toy.USERS)[1], atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e16])
def test_weights_that_are_not_finite_or_too_large(value: float) -> None:
    def broken(features: Any, training: bool) -> Any:
        ids = tf.cast(features["user_id"], tf.float32)[:, None]
        return tf.where(ids == 9, tf.constant(value, tf.float32), ids)

    broken.schema = toy.SCHEMA.select_by_name("user_id")  # type: ignore[attr-defined]
    ids = toy.USERS["user_id"].to_numpy()
    with pytest.raises(ValueError, match=r"tower output: expected finite values .* in row 9, "):
        list(tower_rows.tower_batches(broken, toy.USERS, ids, 4))


def test_a_merlin_model_whose_own_block_renames_both_towers() -> None:
    schema = toy.SCHEMA.select_by_name(["user_id", "item_id"])
    model = mm.MatrixFactorizationModel(schema, dim=8)
    row = pd.DataFrame({"user_id": [1, 2], "item_id": [3, 4]})
    model(next(iter(mm.Loader(Dataset(row, schema=schema), batch_size=2)))[0])
    ids, vectors = item_vectors(model, toy.ITEMS)
    assert vectors.shape == (toy.N_ITEMS, 8)
    table = next(w for w in model.weights if w.shape[0] == toy.N_ITEMS)
    np.testing.assert_array_equal(vectors, table.numpy()[ids])
