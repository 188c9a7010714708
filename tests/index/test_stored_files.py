"""A damaged or foreign file: each kind has its own message."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import save_index
from merlin_poeem.index.stored_files import IndexFormatError
from tests.index.saved_indexes import (
    PQ_DIM,
    file_of,
    make_index,
    rewrite,
    write_header,
)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no index there"):
        load_index(tmp_path / "missing")


def test_not_an_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(IndexFormatError, match=r"not an index: it holds no header\.json"):
            load_index(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "no magic"),
        (b"[]", "no magic"),
        (b'{"magic": "other"}', "no magic"),
    ],
)
def test_foreign_header(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "header.json").write_bytes(text)
    with pytest.raises(IndexFormatError, match=f"not an index: .*{message}"):
        load_index(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 4}, "newer version: written in format 4.*upgrade"),
        ({"format_version": 4, "header": None}, "newer version"),
        ({"format_version": 0}, "malformed header: format version 0"),
        ({"format_version": "1"}, "malformed header: expected format_version as int"),
        ({"format_version": True}, "malformed header: expected format_version as int"),
        ({"header": []}, "malformed header: expected header as dict"),
        ({"header": {"x": float("nan")}}, "malformed header"),
        ({"crc32": 1}, "checksum mismatch"),
    ],
)
def test_header_errors(saved: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads((saved / "header.json").read_text())
    (saved / "header.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(IndexFormatError, match=message):
        load_index(saved)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["params", "n_lists"], 5, "shape/dtype mismatch"),
        (["params", "n_lists"], 1 << 60, "shape/dtype mismatch"),
        (["params", "pq_bits"], 99, "malformed header: pq_bits"),
        (["params", "pq_dim"], 4, "malformed: pq_dim: expected a divisor"),
        (["params", "metric"], ["l2"], "malformed header: metric"),
        (["params", "extra"], 1, "malformed header: params"),
        (["params"], None, "malformed header: expected params"),
        (["dim"], 12, "shape/dtype mismatch"),
        (["dim"], -6, "malformed: dim"),
        (["n_items"], 21, "list_offsets do not rise from 0 to 21"),
        (["n_items"], 20.0, "malformed header: expected n_items"),
        (["encodes_residual"], 1, "malformed header: expected encodes_residual"),
        (["info"], None, "malformed header: expected info"),
        (["item_table"], {}, "malformed header: expected file"),
        (["arrays", "codes", "shape"], [20, 3], "shape/dtype mismatch: expected codes"),
        (["arrays", "codes", "dtype"], "<u2", "shape/dtype mismatch: expected codes"),
        (["arrays", "codes", "file"], "../codes-00000000.npy", "malformed header: file name"),
        (["arrays", "codes", "file"], "codes-00000000.npy", "missing file"),
        (["arrays", "codes", "bytes"], 1 << 60, "truncated or missing file"),
        (["arrays", "codes", "crc32"], None, "malformed header: expected crc32"),
        (["arrays", "codes"], None, "malformed header: expected codes"),
        (["arrays", "scales", "shape"], [19], "shape/dtype mismatch: expected scales"),
        (["arrays", "scales", "dtype"], "|i1", "shape/dtype mismatch: expected scales"),
        (["arrays", "scale_range", "shape"], [3], "shape/dtype mismatch: expected scale_range"),
        (["has_list_lengths"], 1, "malformed header: expected has_list_lengths as bool"),
        (["arrays", "list_lengths"], None, "malformed header: expected list_lengths"),
        (["arrays", "list_lengths", "dtype"], "<f4", "mismatch: expected list_lengths"),
        (["params", "metric"], "l2", "malformed: quantization: expected no scale_range"),
    ],
)
def test_header_values(saved: Path, keys: list[str], value: Any, message: str) -> None:
    content = json.loads((saved / "header.json").read_text())
    target = content["header"]
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    write_header(saved, content)
    with pytest.raises(IndexFormatError, match=message):
        load_index(saved)


@pytest.mark.parametrize("key", ["item_table", "arrays", "info", "n_items"])
def test_header_without_a_key(saved: Path, key: str) -> None:
    content = json.loads((saved / "header.json").read_text())
    del content["header"][key]
    write_header(saved, content)
    with pytest.raises(IndexFormatError, match=f"malformed header.*{key}"):
        load_index(saved)


@pytest.mark.parametrize("name", ["scales", "scale_range"])
def test_header_with_half_of_the_scales(saved: Path, name: str) -> None:
    content = json.loads((saved / "header.json").read_text())
    del content["header"]["arrays"][name]
    write_header(saved, content)
    with pytest.raises(IndexFormatError, match="malformed header: only one of scale_range and"):
        load_index(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotation": None}, "malformed: query_rotation: expected none where there is no rotation"),
        ({"query_rotation": None}, "malformed: rotation: expected an orthogonal matrix"),
        ({"query_rotation": "rotation"}, "malformed: query_rotation: expected the transposed inv"),
        ({"metric": "l2"}, "malformed: quantization: expected no query_rotation"),
        ({"metric": "cosine"}, "malformed: quantization: expected a scale_range beside the query"),
    ],
)
def test_header_with_half_of_a_stretched_space(
    tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    save_index(make_index(rotated="stretched", scales=False), tmp_path)
    content = json.loads((tmp_path / "header.json").read_text())
    arrays = content["header"]["arrays"]
    for name, other in change.items():
        if name == "metric":
            content["header"]["params"]["metric"] = other
        elif other is None:
            del arrays[name]
        else:
            arrays[name] = arrays[other]
    write_header(tmp_path, content)
    with pytest.raises(IndexFormatError, match=message):
        load_index(tmp_path)


@pytest.mark.parametrize("name", ["codebook", "item_ids", "codes", "scales", "item_table"])
def test_truncated_file_is_seen_at_open(saved: Path, name: str) -> None:
    file = file_of(saved, name)
    data = file.read_bytes()
    for size in (0, 1, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(IndexFormatError, match=f"truncated .*expected {len(data)} bytes"):
            load_index(saved)
    file.unlink()
    with pytest.raises(IndexFormatError, match="missing file: there is none"):
        load_index(saved)


def test_file_truncated_while_open(saved: Path) -> None:
    loaded = load_index(saved)
    os.truncate(file_of(saved, "codes"), 100)
    with pytest.raises(IndexFormatError, match="truncated or missing file: expected"):
        _ = loaded.codes


def npy(array: np.ndarray, **header: Any) -> bytes:
    """A .npy file whose header may lie."""
    values = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    text = repr(values).ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + array.tobytes()


OFFSETS = np.array([0, 7, 14, 20, 20])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("codebook", npy(np.full((3, 16, 2), np.nan, np.float32)), "malformed: codebook: .*finite"),
        ("codebook", npy(np.zeros((16, 3, 2), np.float32)), "shape/dtype mismatch"),
        ("codebook", npy(np.zeros((3, 16, 2), np.int32)), "shape/dtype mismatch"),
        ("codebook", npy(np.zeros((3, 16, 2), ">f4")), "shape/dtype mismatch"),
        ("codebook", npy(np.zeros((3, 16, 2), "f4"), fortran_order=True), "Fortran order"),
        ("codebook", npy(np.zeros((3, 16, 1), "f4"), shape=(3, 16, 2)), "truncated"),
        ("codebook", npy(np.zeros((3, 16, 2), "f4"), descr="|O"), "shape/dtype mismatch"),
        ("codebook", b"\x93NUMPY\x02\x00" + bytes(200), "npy header: its .npy version"),
        ("codebook", b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16, "malformed .npy header"),
        ("codebook", b"no npy file", "malformed .npy header"),
        ("scale_range", npy(np.array([2, 0.5], "f4")), "malformed: scale_range: expected 0 < low"),
        ("scale_range", npy(np.array([1, 1], "f4")), "malformed: scale_range: expected 0 < low"),
        ("scale_range", npy(np.array([0, 1], "f4")), "malformed: scale_range: expected 0 < low"),
        ("scale_range", npy(np.array([1, np.inf], "f4")), "malformed: scale_range: .*finite"),
        ("list_lengths", npy(np.array([1, 1, -1, 1.0])), "malformed: list_lengths"),
        ("list_lengths", npy(np.array([1, 1, np.nan, 1])), "malformed: list_lengths"),
        ("list_lengths", npy(np.array([1, 1, np.inf, 1])), "malformed: list_lengths"),
        ("list_offsets", npy(OFFSETS + 1), "list_offsets do not rise"),
        ("list_offsets", npy(OFFSETS[[0, 2, 1, 3, 4]]), "list_offsets do not rise"),
    ],
)
def test_arrays_of_a_faulty_writer(saved: Path, name: str, data: bytes, message: str) -> None:
    rewrite(saved, name, data)
    with pytest.raises(IndexFormatError, match=message):
        load_index(saved)


def test_rows_of_a_faulty_writer(tmp_path: Path) -> None:
    save_index(make_index(pq_bits=6, with_table=True), tmp_path)
    rewrite(tmp_path, "item_ids", npy(np.zeros(20, np.int64)))
    rewrite(tmp_path, "codes", npy(np.full((20, PQ_DIM), 64, np.uint8)))
    rewrite(tmp_path, "item_table", b"PAR1 but no more")
    rewrite(tmp_path, "scales", npy(np.zeros(20, np.int8)))
    loaded = load_index(tmp_path)
    with pytest.raises(IndexFormatError, match="shape/dtype mismatch"):
        _ = loaded.scales
    with pytest.raises(IndexFormatError, match="ids do not rise within a list"):
        _ = loaded.item_ids
    with pytest.raises(IndexFormatError, match="expected codes below 64, got 64"):
        _ = loaded.codes
    with pytest.raises(IndexFormatError, match="malformed item table"):
        _ = loaded.item_table


def test_table_without_ids(saved: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table({"title": ["x"]}), sink)
    rewrite(saved, "item_table", sink.getvalue().to_pybytes())
    with pytest.raises(IndexFormatError, match=r"malformed item table: .*item_id"):
        _ = load_index(saved).item_table


def test_nothing_is_unpickled(saved: Path) -> None:
    objects = np.array([[["x"] * 2] * 16] * 3, object)
    file = saved / "objects.npy"
    np.save(file, objects, allow_pickle=True)
    data = file.read_bytes()
    content = json.loads((saved / "header.json").read_text())
    content["header"]["arrays"]["codebook"]["dtype"] = "|O"
    write_header(saved, content)
    rewrite(saved, "codebook", data)
    with pytest.raises(IndexFormatError, match="shape/dtype mismatch"):
        load_index(saved)
