"""Loading: what is read when, and the golden files of every version."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from merlin_poeem.index import loading
from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import save_index
from merlin_poeem.index.stored_files import IndexFormatError, StoredFile, read_header
from merlin_poeem.search import reference
from tests.index.saved_indexes import (
    GOLDEN,
    assert_same,
    assert_same_table,
    file_of,
    make_index,
    named_files,
    rewrite,
)

# What is read when.


def test_opening_reads_none_of_what_grows_with_the_items(tmp_path: Path) -> None:
    index = make_index(200_000, with_table=True, vectors="int8")
    save_index(index, tmp_path)
    for name in ("item_ids", "codes", "scales", "vectors", "vector_scales", "item_table"):
        file = file_of(tmp_path, name)
        file.write_bytes(bytes(file.stat().st_size))  # zeros: whoever reads them must notice
    loaded = load_index(tmp_path)
    assert loaded.n_items == 200_000
    np.testing.assert_array_equal(loaded.list_sizes, index.list_sizes)
    np.testing.assert_array_equal(loaded.list_factors, index.list_factors)
    assert loaded.refine == 4
    for name in ("item_ids", "packed_codes", "scales", "vectors", "item_table"):
        for _ in range(2):
            with pytest.raises(IndexFormatError, match="checksum mismatch"):
                getattr(loaded, name)


def test_arrays_are_read_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    verified = StoredFile.verified

    def counting(stored: StoredFile) -> Any:
        read.append(stored.path.name.split("-")[0])
        return verified(stored)

    monkeypatch.setattr(StoredFile, "verified", counting)
    loaded = load_index(saved)
    opened = ["coarse_centroids", "codebook", "list_lengths", "list_offsets", "scale_range"]
    assert sorted(read) == opened
    assert_same(loaded, make_index())
    assert_same(loaded.with_n_probes(2), make_index())
    assert sorted(read[len(opened) :]) == ["codes", "item_ids", "scales"]


def test_an_open_index_outlives_its_replacement(tmp_path: Path) -> None:
    old, new = make_index(with_table=True), make_index(seed=1)
    save_index(old, tmp_path)
    opened = load_index(tmp_path)  # nothing of it is read yet
    save_index(new, tmp_path)
    assert_same(opened, old)
    assert_same_table(opened, old)
    assert_same(load_index(tmp_path), new)


def test_load_while_a_save_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_index(make_index(), tmp_path)
    headers = [read_header(tmp_path)]
    save_index(make_index(seed=1), tmp_path)  # deletes the files that this header names
    monkeypatch.setattr(
        loading, "read_header", lambda path: headers.pop() if headers else read_header(path)
    )
    assert_same(load_index(tmp_path), make_index(seed=1))


def test_loading_imports_pandas_only_for_a_table(saved: Path) -> None:
    code = (
        "import sys; from merlin_poeem import load_index\n"
        "index = load_index(sys.argv[1]); index.item_ids, index.packed_codes\n"
        "assert not {'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert len(index.item_table) == 20"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True)


def test_loaded_arrays_are_read_only(saved: Path) -> None:
    index = load_index(saved)
    arrays = (index.item_ids, index.packed_codes, index.codes, index.list_ids, index.list_offsets)
    for array in (*arrays, index.quantization.coarse_centroids, index.quantization.codebook):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    stored = index._load_item_ids()
    assert np.shares_memory(index.item_ids, stored)  # mapped, not copied


def write_table(saved: Path, table: pd.DataFrame) -> None:
    sink = io.BytesIO()
    table.to_parquet(sink, index=False)
    rewrite(saved, "item_table", sink.getvalue())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(item_id=7), "expected each id once, got 1 repeated"),
        (lambda table: table.assign(item_id=None), "item_table.item_id: expected integers"),
        (lambda table: table.drop(columns="item_id"), "expected a column item_id"),
    ],
)
def test_tables_of_a_faulty_writer(saved: Path, change: Any, message: str) -> None:
    table = load_index(saved).item_table
    write_table(saved, change(table))
    loaded = load_index(saved)
    with pytest.raises(IndexFormatError, match=f"malformed item table: .*{message}"):
        _ = loaded.item_table
    mended = loaded.with_item_table(table)
    pd.testing.assert_frame_equal(mended.item_table, table)
    assert loaded.with_item_table(None).remove(loaded.item_ids[:1]).n_items == 19


def test_rows_of_other_items_are_not_looked_for(saved: Path) -> None:
    table = load_index(saved).item_table
    write_table(saved, table.replace({"item_id": {table["item_id"][0]: 7}}))
    loaded = load_index(saved)
    assert loaded.item_table["item_id"][0] == 7
    assert "item_ids" not in vars(loaded)
    with pytest.raises(ValueError, match=r"rows of the index's items alone, got 1 .*\[7\]; drop"):
        loaded.remove(loaded.item_ids[:1])
    held = loaded.item_table["item_id"].isin(loaded.item_ids)
    assert len(loaded.with_item_table(loaded.item_table[held]).remove([]).item_table) == 19


# Golden files: indexes saved by released versions stay readable. See golden/README.md.


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("v*-*/")), ids=lambda path: path.name)
def test_golden(path: Path) -> None:
    expected = json.loads((GOLDEN / f"{path.name}.json").read_text())
    index = load_index(path)
    assert index.params.to_dict() == expected["params"]
    assert index.info == expected["info"]
    queries = np.array(expected["queries"], np.float32).reshape(-1, index.dim)
    found = reference.search(index, queries, k=expected["k"])
    assert found.counts.tolist() == expected["counts"]
    assert found.item_ids.tolist() == expected["item_ids"]
    np.testing.assert_allclose(found.scores, expected["scores"], rtol=1e-5, atol=1e-6)
    assert (index.vectors is None) == (expected.get("vectors") is None)
    if index.vectors is not None:
        assert index.vectors.decoded().tolist() == expected["vectors"]
    factors, scales = expected.get("list_factors"), expected.get("scales")
    assert (index.scales is None, index.list_factors is None) == (scales is None, factors is None)
    if scales is not None:
        assert index.scales.tolist() == scales
    if factors is not None:
        np.testing.assert_allclose(index.list_factors, factors, rtol=1e-6)
    table = index.item_table
    rows = None if table is None else json.loads(table.to_json(orient="records"))
    assert rows == expected["item_table"]


def test_golden_files_are_there() -> None:
    assert len(list(GOLDEN.glob("v1-*/"))) >= 4
    assert len(list(GOLDEN.glob("v2-*/"))) >= 8
    assert len(list(GOLDEN.glob("v3-*/"))) >= 2


def test_golden_can_be_replaced(tmp_path: Path) -> None:
    path = shutil.copytree(next(iter(sorted(GOLDEN.glob("v1-*/")))), tmp_path / "copy")
    save_index(make_index(), path)
    assert_same(load_index(path), make_index())
    assert named_files(path) == set(os.listdir(path))
