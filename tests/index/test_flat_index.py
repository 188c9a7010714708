"""FlatIndex: made, extended, reduced, saved and loaded."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem import (
    FlatIndex,
    IndexFormatError,
    load_flat_index,
    load_index,
    save_index,
)
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.stored_vectors import FLAT_DTYPES
from tests.index.saved_indexes import (
    GOLDEN,
    assert_same_vectors,
    files_of,
    make_index,
    named_files,
)

DIM = 5


def make_vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def make_flat(
    n: int = 20, metric: str = "inner_product", dtype: str = "float32", *, table: bool = False
) -> FlatIndex:
    item_ids = (1 << 40) + np.random.default_rng(1).permutation(n)
    rows = pd.DataFrame({"item_id": item_ids, "title": [f"título {i}" for i in item_ids]})
    return FlatIndex.from_vectors(
        item_ids,
        make_vectors(n),
        metric=metric,  # type: ignore[arg-type]
        store_vectors=dtype,  # type: ignore[arg-type]
        item_table=rows if table else None,
        info={"note": "ü"},
    )


def assert_same(got: FlatIndex, expected: FlatIndex) -> None:
    assert (got.metric, got.info) == (expected.metric, expected.info)
    np.testing.assert_array_equal(got.item_ids, expected.item_ids, strict=True)
    assert_same_vectors(got.vectors, expected.vectors)
    if expected.item_table is None:
        assert got.item_table is None
    else:
        pd.testing.assert_frame_equal(got.item_table, expected.item_table)


@pytest.mark.parametrize("dtype", FLAT_DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_round_trip(tmp_path: Path, metric: str, dtype: str) -> None:
    for index in (make_flat(20, metric, dtype, table=True), make_flat(0, metric, dtype)):
        save_index(index, tmp_path)
        assert_same(load_flat_index(tmp_path), index)
        assert named_files(tmp_path) == set(os.listdir(tmp_path))


@given(counts=st.tuples(st.integers(0, 9), st.integers(0, 9)), dtype=st.sampled_from(FLAT_DTYPES))
def test_extending_and_removing(counts: tuple[int, int], dtype: Any) -> None:
    n_first, n = counts[0], sum(counts)
    item_ids, vectors = np.random.default_rng(n).permutation(n), make_vectors(n)
    whole = FlatIndex.from_vectors(item_ids, vectors, store_vectors=dtype)
    first = FlatIndex.from_vectors(item_ids[:n_first], vectors[:n_first], store_vectors=dtype)
    assert_same(first.extend(item_ids[n_first:], vectors[n_first:]), whole)
    assert_same(whole.remove(item_ids[n_first:]), first)
    assert len(whole) == n


def test_vectors_of_gives_the_vectors() -> None:
    for metric in METRICS:
        index, own = make_flat(metric=metric), make_vectors(20)
        item_ids = (1 << 40) + np.random.default_rng(1).permutation(20)
        if metric == "cosine":
            own = own / np.linalg.norm(own, axis=1, keepdims=True)
        np.testing.assert_allclose(index.vectors_of(item_ids), own, atol=1e-6)
        with pytest.raises(ValueError, match="item_ids: expected ids in the index, got 1"):
            index.vectors_of([5])


@pytest.mark.parametrize("dtype", FLAT_DTYPES)
def test_an_empty_index_takes_its_origin_from_what_comes(dtype: Any) -> None:
    vectors = make_vectors(30) + np.float32(1e4)
    empty = FlatIndex.from_vectors([], vectors[:0], metric="l2", store_vectors=dtype)
    direct = FlatIndex.from_vectors(range(30), vectors, metric="l2", store_vectors=dtype)
    assert_same(empty.extend(range(30), vectors), direct)
    moved = direct.remove(range(30)).extend(range(30), vectors - 2 * np.float32(1e4))
    np.testing.assert_allclose(moved.vectors_of([3])[0], vectors[3] - 2e4, atol=0.05)


def test_the_table_follows() -> None:
    index = make_flat(table=True)
    first = index.item_ids[0]
    assert first not in index.remove([first]).item_table["item_id"].to_numpy()
    more = pd.DataFrame({"item_id": [7], "title": ["seven"]})
    grown = index.extend([7], make_vectors(1), item_table=more)
    assert grown.item_table["title"].tolist()[-1] == "seven"
    with pytest.raises(ValueError, match="item_table: expected none, as the index has none"):
        make_flat().extend([7], make_vectors(1), item_table=more)


def test_memory_of_the_caller() -> None:
    item_ids, vectors = np.arange(4), make_vectors(4)
    index = FlatIndex.from_vectors(item_ids, vectors)
    item_ids[0], vectors[0] = 99, 0
    assert index.item_ids.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(index.vectors_of([0])[0], make_vectors(4)[0])
    for array in (index.item_ids, index.vectors.values):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="item_ids: expected each id once"):
        FlatIndex.from_vectors([1, 1], make_vectors(2))
    with pytest.raises(ValueError, match="item_ids: expected 2, one a vector; got 1"):
        FlatIndex.from_vectors([1], make_vectors(2))
    with pytest.raises(ValueError, match="vectors: expected finite values"):
        FlatIndex.from_vectors([1], np.full((1, 2), np.inf, np.float32))
    with pytest.raises(ValueError, match="metric: expected one of"):
        FlatIndex.from_vectors([1], make_vectors(1), metric="dot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="store_vectors: expected one of float32, float16, int8"):
        FlatIndex.from_vectors([1], make_vectors(1), store_vectors="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"vectors: expected shape \(n, 5\)"):
        make_flat().extend([7], np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="expected ids not yet in the index, got 1 that are"):
        make_flat().extend([1 << 40], make_vectors(1))


def test_each_kind_names_the_other(tmp_path: Path) -> None:
    save_index(make_flat(), tmp_path / "flat")
    save_index(make_index(), tmp_path / "lists")
    with pytest.raises(IndexFormatError, match="got a flat index: use load_flat_index"):
        load_index(tmp_path / "flat")
    with pytest.raises(IndexFormatError, match="a flat index, got another: use load_index"):
        load_flat_index(tmp_path / "lists")
    with pytest.raises(FileNotFoundError, match="no index there"):
        load_flat_index(tmp_path / "nothing")
    save_index(make_index(), tmp_path / "flat")
    assert len(load_index(tmp_path / "flat")) == 20


def test_golden() -> None:
    index = load_flat_index(GOLDEN / "flat-v2-l2-int8")
    assert (index.metric, index.vectors.dtype, index.info) == ("l2", "int8", {"note": "ü"})
    assert_same(index, make_flat(12, "l2", "int8", table=True))


ORIGINAL = make_flat(9, "l2", "float16", table=True)


@pytest.fixture(scope="module")
def original_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("original")
    save_index(ORIGINAL, folder)
    return files_of(folder)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_harmless(original_files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(original_files)))
    content = bytearray(original_files[name])
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[position:]
    with tempfile.TemporaryDirectory() as folder:
        for other, data_of_other in {**original_files, name: bytes(content)}.items():
            (Path(folder) / other).write_bytes(data_of_other)
        with suppress(IndexFormatError):
            assert_same(load_flat_index(folder), ORIGINAL)
