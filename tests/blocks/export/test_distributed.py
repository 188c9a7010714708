"""A saved model encodes a Dask frame of items as the live one encodes them all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem import load_index, save_index
from merlin_poeem.blocks import export_index
from merlin_poeem.blocks.export import distributed as export_distributed
from merlin_poeem.blocks.export.distributed import (
    encode_items_ddf,
    export_index_ddf,
)
from merlin_poeem.distributed import shard_index
from merlin_poeem.quantization.stored_vectors import VECTOR_DTYPES, VectorDtype
from tests.blocks import toy

N_ITEMS = toy.N_ITEMS


@pytest.fixture(scope="module")
def model() -> Any:
    return toy.trained_model(toy.v1)


@pytest.fixture(scope="module")
def saved(saved_toy: Callable[[Any], Path]) -> Path:
    return saved_toy(toy.v1)


@pytest.fixture
def items() -> pd.DataFrame:
    """Ids beside those that the tower takes, one of them twice: rows that differ otherwise."""
    ids = np.arange(N_ITEMS)
    frame = pd.DataFrame({"item_id": ids, "category": ids % 5, "original": 2**40 + ids})
    return pd.concat([frame, frame[3:4].assign(category=0)], ignore_index=True)


def in_partitions(frame: pd.DataFrame, *bounds: int) -> Any:
    parts = [frame.iloc[i:j] for i, j in pairwise([0, *bounds, len(frame)])]
    return dd.from_delayed([dask.delayed(part) for part in parts], meta=frame.iloc[:0])


def test_the_index_of_the_live_model(
    model: Any, saved: Path, items: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads, load = [], tf.keras.models.load_model

    def counted(path: str) -> Any:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(tf.keras.models, "load_model", counted)
    ddf = in_partitions(items, 20, 20, 33)
    asked: dict[str, Any] = {"n_probes": 2, "id_column": "original", "info": {"a": 1}}
    with dask.config.set(scheduler="threads", num_workers=3):
        got = export_index_ddf(saved, Dataset(ddf, schema=toy.SCHEMA), **asked)
    assert len(loads) == 1
    expected = export_index(model, items, **asked)
    assert (got.params, got.info) == (expected.params, expected.info)
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    np.testing.assert_array_equal(got.list_offsets, expected.list_offsets)
    np.testing.assert_array_equal(got.packed_codes, expected.packed_codes)
    # To the rounding of products of matrices with other numbers of rows.
    ranges = (each.quantization.scale_range for each in (got, expected))
    np.testing.assert_allclose(*ranges, rtol=1e-5)
    assert np.abs(got.scales.astype(int) - expected.scales).max() <= 1
    with dask.config.set(scheduler="synchronous"):
        suggested = export_index_ddf(saved, ddf, **asked | {"n_probes": None})
    assert suggested.params.n_probes == 4  # as suggested for so few items
    with pytest.raises(ValueError, match=r"^item_scales: expected True, .* trained with stretch=0"):
        export_index_ddf(saved, ddf, item_scales=False, **asked)
    # It reaches the index too, which refuses it itself.
    monkeypatch.setattr(export_distributed, "check_item_scales", lambda *_, **__: None)
    with dask.config.set(scheduler="synchronous"), pytest.raises(ValueError, match="a scale_range"):
        export_index_ddf(saved, ddf, item_scales=False, **asked)
    # What came of it is an index as any other.
    save_index(got, tmp_path / "whole")
    assert load_index(tmp_path / "whole").n_items == N_ITEMS
    assert len(shard_index(got, 2, tmp_path / "shards")) == 2


@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
def test_stored_vectors_of_the_live_model(
    model: Any, saved: Path, items: pd.DataFrame, dtype: VectorDtype
) -> None:
    asked: dict[str, Any] = {"id_column": "original", "store_vectors": dtype}
    with dask.config.set(scheduler="synchronous"):
        got = export_index_ddf(saved, in_partitions(items, 20, 20, 33), **asked).vectors
    expected = export_index(model, items, **asked).vectors
    assert got.dtype == expected.dtype == dtype
    assert got.values.shape == expected.values.shape
    # To the rounding of products of matrices with other numbers of rows.
    steps = {"float16": 2**-11, "int8": 1 / 127}[dtype]
    np.testing.assert_allclose(got.decoded(), expected.decoded(), atol=1.01 * steps)


def test_only_what_is_stored_travels(saved: Path, items: pd.DataFrame) -> None:
    ddf = export_distributed._encode(
        export_distributed._Saved.at(saved), in_partitions(items[:9], 4, 4), 3, None, "float16"
    )
    with dask.config.set(scheduler="synchronous"):
        parts = dask.compute(*ddf.to_delayed())
    for part in parts:
        pd.testing.assert_series_equal(part.dtypes, ddf.dtypes)
        vectors = [name for name in part if name.startswith("vector_")]
        assert vectors == [f"vector_{j}" for j in range(len(vectors))]
        assert set(part.dtypes[vectors]) == {np.dtype(np.float16)}
        assert part.select_dtypes("float32").columns.tolist() == ["scale_of_vector"]


def test_codes_stay_a_dask_frame(saved: Path, items: pd.DataFrame) -> None:
    found = encode_items_ddf(saved, in_partitions(items[:9], 4, 4), batch_size=3)
    codes = [f"code_{j}" for j in range(4)]
    assert list(found.columns) == ["item_id", "list_id", *codes]
    with dask.config.set(scheduler="synchronous"):
        parts = dask.compute(*found.to_delayed())
    assert [len(part) for part in parts] == [4, 0, 5]
    for part in parts:
        pd.testing.assert_series_equal(part.dtypes, found.dtypes)


def test_bad_input(saved: Path, items: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"ddf: expected a Dask DataFrame, got pandas.DataFrame"):
        encode_items_ddf(saved, items)
    with pytest.raises(ValueError, match=r"expected the columns \['category'\]"):
        encode_items_ddf(saved, in_partitions(items.drop(columns="category")))
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        encode_items_ddf(saved, in_partitions(items), batch_size=0)
    with pytest.raises(ValueError, match="info: expected no key 'fingerprints'"):
        export_index_ddf(saved, in_partitions(items), info={"fingerprints": {}})
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(ValueError, match="items: expected at least one row, got none"),
    ):
        export_index_ddf(saved, in_partitions(items[:0]))
    with pytest.raises(ValueError, match="store_vectors: expected float16 or int8, got 'float64'"):
        export_index_ddf(saved, in_partitions(items), store_vectors="float64")
    with pytest.raises(OSError, match="absent"):
        encode_items_ddf(tmp_path / "absent", in_partitions(items))


def test_a_model_replaced_since(saved: Path, items: pd.DataFrame) -> None:
    found = encode_items_ddf(saved, in_partitions(items[:5]))
    variables = saved / "variables" / "variables.index"
    before = variables.read_bytes()
    variables.write_bytes(before + b"\0")
    export_distributed._model.cache_clear()  # as in another process
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(ValueError, match=r"model with fingerprint .* replaced since"),
    ):
        found.compute()
    variables.write_bytes(before)
