"""Scales and vectors of an export; and of cuDF items, by their stand-in, what pandas items give."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from merlin.io import Dataset

from merlin_poeem.arrays import normalize
from merlin_poeem.blocks import encode_items, export_index, query_vectors
from merlin_poeem.blocks.export import export, tower_rows
from merlin_poeem.blocks.export.export import item_vectors
from merlin_poeem.blocks.export.tower_rows import partitions
from merlin_poeem.evaluate import exact_search
from merlin_poeem.index.index import stored_vectors
from merlin_poeem.quantization import coding, suggested_params
from merlin_poeem.quantization.stored_vectors import VECTOR_DTYPES, VectorDtype
from merlin_poeem.search import reference
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


@pytest.mark.parametrize("batch_size", [7, 4096])
def test_scales_are_those_of_the_float_vectors(
    model: Any, items: pd.DataFrame, batch_size: int
) -> None:
    index = export_index(model, items, batch_size=batch_size)
    item_ids, vectors = item_vectors(model, items)
    rows = np.argsort(index.rows_of(item_ids))
    vectors = normalize(vectors[rows])  # the model scores by cosine
    coded = index.list_ids, index.codes
    exact = coding.exact_scales(index.quantization, vectors, *coded)
    expected = coding.fit_scale_range(exact)
    np.testing.assert_allclose(index.quantization.scale_range, expected, rtol=1e-4)
    got = index.quantization.scale_table[index.scales]
    np.testing.assert_allclose(got, exact, rtol=0.02, atol=1e-6)
    # Of the reconstructions on the ray of x̂, these are the nearest but for the table's steps.
    x_rot, plain = (
        index.quantization.rotate(vectors),
        replace(index.quantization, scale_range=None),
    )
    scaled = coding.decode_rotated(index.quantization, *coded, index.scales)
    unscaled = coding.decode_rotated(plain, *coded)
    assert ((x_rot - scaled) ** 2).sum() < ((x_rot - unscaled) ** 2).sum()


@pytest.mark.parametrize("kind", [lambda items: items, Dataset], ids=["frame", "dataset"])
def test_a_long_export_shows_a_bar(
    model: Any, items: pd.DataFrame, kind: Any, capsys: Any, long_work: None
) -> None:
    given, users = kind(items), kind(toy.USERS)
    for work in (
        lambda shown: export_index(model, given, batch_size=9, progress=shown).codes,
        lambda shown: encode_items(model, given, batch_size=9, progress=shown).codes,
        lambda shown: item_vectors(model, given, batch_size=9, progress=shown)[1],
        lambda shown: query_vectors(model, users, batch_size=9, progress=shown)[1],
    ):
        result = work(True)
        shown = capsys.readouterr().err
        n_rows = len(result) if kind is Dataset else "100%"
        assert f"{n_rows}" in shown
        assert shown.lstrip().startswith("encode: ")
        np.testing.assert_array_equal(work(False), result)
        assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"metric": "cosine", "stretch": 0}, {"metric": "inner_product"}]
)
def test_an_export_without_scales(options: dict[str, Any], items: pd.DataFrame) -> None:
    model = toy.v2(toy.make_quantizer(warmup=1, **options))
    toy.train(model, run_eagerly=True)
    plain, index = export_index(model, items, item_scales=False), export_index(model, items)
    assert plain.scales is None
    assert plain.quantization.scale_range is None
    assert (plain.quantization.query_rotation is None) == (options.get("stretch") == 0)
    np.testing.assert_array_equal(plain.packed_codes, index.packed_codes)


def test_by_cosine_a_stretched_space_needs_scales(model: Any) -> None:
    with pytest.raises(ValueError, match=r"^item_scales: expected True, .* trained with stretch=0"):
        export_index(model, None, item_scales=False)


def test_without_n_probes_they_are_suggested_and_a_line_says_so(
    model: Any, items: pd.DataFrame, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    caplog.set_level(logging.INFO, logger="merlin_poeem")
    index = export_index(model, items)
    assert index.params.n_probes == index.n_lists == 4  # of a small catalog all
    (line,) = caplog.messages
    expected = "n_probes: 4 of 4 lists, as suggested for 50 items; merlin_poeem.tune finds out"
    assert line.startswith(expected)
    monkeypatch.setattr(suggested_params, "LEAST_PROBED_ITEMS", 25)
    assert export_index(model, items).params.n_probes == 2
    caplog.clear()
    assert export_index(model, items, n_probes=3).params.n_probes == 3
    assert not caplog.messages


@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
def test_stored_vectors_are_the_float_vectors(
    model: Any, items: pd.DataFrame, dtype: VectorDtype
) -> None:
    item_ids, vectors = item_vectors(model, items)
    index = export_index(model, items, store_vectors=dtype, batch_size=7)
    plain = export_index(model, items)
    assert (index.refine, plain.refine) == (4, 0)
    expected = plain.with_vectors(item_ids, vectors, dtype).vectors
    assert index.vectors.dtype == dtype
    # To the rounding of products of matrices with other numbers of rows.
    steps = {"float16": 2**-11, "int8": 1 / 127}[dtype]
    np.testing.assert_allclose(index.vectors.decoded(), expected.decoded(), atol=1.01 * steps)
    np.testing.assert_array_equal(index.packed_codes, plain.packed_codes)
    # A second look at all items is exact search.
    queries = vectors[:9]
    found = reference.search(index, queries, k=5, n_probes=index.n_lists, refine=N_ITEMS)
    exact = exact_search(item_ids, vectors, queries, k=5, metric="cosine")
    np.testing.assert_allclose(found.scores, exact.scores, atol=2 * steps)
    assert plain.vectors is None


def test_vectors_are_never_all_in_float32(
    model: Any, items: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(params: Any, quantization: Any, vectors: Any, dtype: Any) -> Any:
        sizes.append(len(vectors))
        return stored_vectors(params, quantization, vectors, dtype)

    monkeypatch.setattr(export, "stored_vectors", counted)
    export_index(model, items, store_vectors="int8", batch_size=7)
    assert max(sizes) == 7
    assert sum(sizes) == N_ITEMS


def test_another_dtype_of_vectors_is_refused(model: Any, items: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="store_vectors: expected float16 or int8, got 'float32'"):
        export_index(model, items, store_vectors="float32")


def test_codes_alone_have_no_scales(model: Any, items: pd.DataFrame) -> None:
    assert encode_items(model, items).scales is None


def test_cudf_items_become_the_index_of_pandas_items(
    model: Any, items: pd.DataFrame, cudf_items: Any
) -> None:
    asked: dict[str, Any] = {"n_probes": 2, "id_column": "original", "batch_size": 16}
    got, expected = (export_index(model, each, **asked) for each in (cudf_items, items))
    assert (got.params, got.info, got.n_items) == (expected.params, expected.info, N_ITEMS)
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    np.testing.assert_array_equal(got.list_offsets, expected.list_offsets)
    np.testing.assert_array_equal(got.packed_codes, expected.packed_codes)
    np.testing.assert_array_equal(got.scales, expected.scales)


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
    monkeypatch.setattr(tower_rows, "to_pandas", lambda frame: ("copied", frame))
    monkeypatch.setattr(type(dataset.to_ddf()), "compute", lambda self, **_: cudf_items)
    assert list(partitions(dataset)) == [("copied", cudf_items)]


def test_cudf_items_without_a_column(model: Any, cudf_items: Any) -> None:
    with pytest.raises(ValueError, match=r"dataset: expected the columns \['category'\], got"):
        export_index(model, cudf_items[["item_id", "original"]])


def test_cudf_columns_are_no_items(model: Any, cudf_items: Any) -> None:
    with pytest.raises(TypeError, match=r"or a DataFrame, got cudf\.Series"):
        export_index(model, cudf_items["item_id"])
