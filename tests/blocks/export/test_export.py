"""Item features in a cuDF frame, by its stand-in, give what those in a pandas frame give."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from merlin.io import Dataset

from merlin_poeem.blocks import export_index
from merlin_poeem.blocks.export import export
from merlin_poeem.blocks.export.export import item_vectors, partitions
from tests.blocks import toy
from tests.device_arrays import make_cupy

N_ITEMS = toy.N_ITEMS


@pytest.fixture(scope="module")
def model() -> Any:
    return toy.trained_model(toy.v1)


@pytest.fixture
def items() -> pd.DataFrame:
    """One id twice, in rows that differ otherwise, and labels that are no row numbers."""
    ids = np.arange(N_ITEMS)
    frame = pd.DataFrame({"item_id": ids, "category": ids % 5, "original": 2**60 + ids})
    repeated = pd.concat([frame, frame[3:4].assign(category=0)])
    return repeated.set_index(np.arange(N_ITEMS, -1, -1))


@pytest.fixture
def cudf_items(cudf: ModuleType, items: pd.DataFrame) -> Any:
    cupy = make_cupy()
    return cudf.DataFrame({name: cupy.asarray(items[name].to_numpy()) for name in items})


def test_cudf_items_become_the_index_of_pandas_items(
    model: Any, items: pd.DataFrame, cudf_items: Any
) -> None:
    asked: dict[str, Any] = {"n_probes": 2, "id_column": "original", "batch_size": 16}
    got, expected = (export_index(model, each, **asked) for each in (cudf_items, items))
    assert (got.params, got.info, got.n_items) == (expected.params, expected.info, N_ITEMS)
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    np.testing.assert_array_equal(got.list_offsets, expected.list_offsets)
    np.testing.assert_array_equal(got.packed_codes, expected.packed_codes)


def test_cudf_items_have_the_vectors_of_pandas_items(
    model: Any, items: pd.DataFrame, cudf_items: Any
) -> None:
    for got, expected in zip(
        item_vectors(model, cudf_items), item_vectors(model, items), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_cudf_partitions_of_a_dataset_come_to_the_host(
    items: pd.DataFrame, cudf_items: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(items, schema=toy.SCHEMA)
    monkeypatch.setattr(export, "to_pandas", lambda frame: ("copied", frame))
    monkeypatch.setattr(type(dataset.to_ddf()), "compute", lambda self, **_: cudf_items)
    assert list(partitions(dataset)) == [("copied", cudf_items)]


def test_cudf_items_without_a_column(model: Any, cudf_items: Any) -> None:
    with pytest.raises(ValueError, match=r"dataset: expected the columns \['category'\], got"):
        export_index(model, cudf_items[["item_id", "original"]])


def test_cudf_columns_are_no_items(model: Any, cudf_items: Any) -> None:
    with pytest.raises(TypeError, match=r"or a DataFrame, got cudf\.Series"):
        export_index(model, cudf_items["item_id"])
