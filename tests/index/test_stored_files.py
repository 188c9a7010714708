"""The saved index: round trips, atomic saves, every kind of damage, and the golden files."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem.index import loading
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import _ChecksummedFile, save_index
from merlin_poeem.index.stored_files import IndexFormatError, StoredFile, read_header
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.search import reference

GOLDEN = Path(__file__).parents[1] / "golden"
N_LISTS, PQ_DIM, PQ_LEN = 4, 3, 2
DIM = PQ_DIM * PQ_LEN


def make_index(
    n_items: int = 20,
    *,
    pq_bits: int = 4,
    metric: str = "inner_product",
    rotated: bool = False,
    encodes_residual: bool = True,
    with_table: bool = False,
    seed: int = 0,
) -> Index:
    rng = np.random.default_rng(seed)
    params = IVFPQParams(n_lists=N_LISTS, pq_dim=PQ_DIM, pq_bits=pq_bits, metric=metric, n_probes=2)
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    quantization = Quantization(
        rng.normal(size=(N_LISTS, DIM)).astype(np.float32),
        rng.normal(size=(PQ_DIM, 1 << pq_bits, PQ_LEN)).astype(np.float32),
        rotation if rotated else None,
        encodes_residual,
    )
    item_ids = (1 << 40) + rng.permutation(3 * n_items)[:n_items]
    item_codes = ItemCodes(
        item_ids,
        rng.integers(0, N_LISTS - 1, n_items),  # the last list stays empty
        rng.integers(0, 1 << pq_bits, (n_items, PQ_DIM)).astype(quantization.code_dtype),
    )
    table = pd.DataFrame({"item_id": item_ids, "title": [f"título {i}" for i in item_ids]})
    return Index.from_codes(
        params,
        quantization,
        item_codes,
        item_table=table if with_table else None,
        info={"seed": seed, "note": "ü"},
    )


def assert_same(got: Index, expected: Index) -> None:
    """The same parameters, rows and answers, bit for bit."""
    assert got.params == expected.params
    assert got.quantization.encodes_residual == expected.quantization.encodes_residual
    for name in ("list_offsets", "item_ids", "packed_codes"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), strict=True)
    queries = np.random.default_rng(9).normal(size=(3, DIM)).astype(np.float32)
    ours, theirs = (
        reference.search(index, queries, k=5, n_probes=N_LISTS) for index in (got, expected)
    )
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.item_ids, theirs.item_ids)


def assert_same_table(got: Index, expected: Index) -> None:
    if expected.item_table is None:
        assert got.item_table is None
    else:
        pd.testing.assert_frame_equal(got.item_table, expected.item_table)


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def named_files(path: Path) -> set[str]:
    header = json.loads((path / "header.json").read_text())["header"]
    table = header["item_table"]
    entries = [*header["arrays"].values(), *([table] if table else [])]
    return {"header.json", *(entry["file"] for entry in entries)}


def write_header(path: Path, content: dict[str, Any]) -> None:
    """The header with its checksum made right again."""
    canonical = json.dumps(content["header"], sort_keys=True, separators=(",", ":")).encode()
    content["crc32"] = zlib.crc32(canonical)
    (path / "header.json").write_text(json.dumps(content))


def rewrite(path: Path, name: str, data: bytes) -> None:
    """Replace an array file and make its entry in the header fit."""
    content = json.loads((path / "header.json").read_text())
    header = content["header"]
    entry = header["item_table"] if name == "item_table" else header["arrays"][name]
    (path / entry["file"]).write_bytes(data)
    entry.update(bytes=len(data), crc32=zlib.crc32(data))
    write_header(path, content)


def file_of(path: Path, name: str) -> Path:
    return next(path.glob(f"{name}-*"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small saved index with an item table."""
    save_index(make_index(with_table=True), tmp_path / "index")
    return tmp_path / "index"


# Round trips.


@pytest.mark.parametrize("pq_bits", [1, 4, 6, 8, 9, 16])
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_round_trip(tmp_path: Path, pq_bits: int, metric: str) -> None:
    index = make_index(pq_bits=pq_bits, metric=metric, rotated=pq_bits > 4)
    save_index(index, tmp_path)
    assert_same(load_index(tmp_path), index)
    assert named_files(tmp_path) == set(os.listdir(tmp_path))


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    index = make_index(rotated=True, encodes_residual=False, with_table=True)
    index.info.update({"nested": {"2": [1.5, None]}, "big": 1 << 70})
    save_index(index, tmp_path / "new" / "folder")
    loaded = load_index(str(tmp_path / "new" / "folder"))
    assert_same(loaded, index)
    assert_same_table(loaded, index)
    assert loaded.info == index.info
    np.testing.assert_array_equal(loaded.quantization.rotation, index.quantization.rotation)


def test_info_keys_that_json_turns_into_strings(tmp_path: Path) -> None:
    index = make_index()
    index.info.update({"by_number": {10: "a", 9: "b"}, "tuple": (1, 2)})
    save_index(index, tmp_path)
    loaded = load_index(tmp_path).info
    assert loaded["by_number"] == {"10": "a", "9": "b"}
    assert loaded["tuple"] == [1, 2]


@pytest.mark.parametrize("pq_bits", [4, 8, 12])
def test_no_items(tmp_path: Path, pq_bits: int) -> None:
    index = make_index(0, pq_bits=pq_bits, with_table=True)
    save_index(index, tmp_path)
    loaded = load_index(tmp_path)
    assert_same(loaded, index)
    assert_same_table(loaded, index)
    assert loaded.n_items == 0


def test_loaded_index_extends_removes_and_saves_again(tmp_path: Path) -> None:
    index = make_index(with_table=True)
    save_index(index, tmp_path)
    removed = index.item_ids[:4]
    vectors = np.ones((2, DIM), np.float32)
    changed = load_index(tmp_path).remove(removed).extend([1, 2], vectors)
    save_index(changed, tmp_path)
    expected = index.remove(removed).extend([1, 2], vectors)
    assert_same(load_index(tmp_path), expected)
    assert_same_table(load_index(tmp_path), expected)


def test_save_in_place_of_itself(tmp_path: Path) -> None:
    index = make_index(with_table=True)
    save_index(index, tmp_path)
    save_index(load_index(tmp_path).with_n_probes(3), tmp_path)
    assert_same(load_index(tmp_path), index.with_n_probes(3))
    assert_same_table(load_index(tmp_path), index)


def test_rows_are_read_only(saved: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_index(saved).item_ids[0] = 1


# What is read when.


def test_opening_reads_neither_ids_nor_codes_nor_table(tmp_path: Path) -> None:
    index = make_index(200_000, with_table=True)
    save_index(index, tmp_path)
    for name in ("item_ids", "codes", "item_table"):
        file = file_of(tmp_path, name)
        file.write_bytes(bytes(file.stat().st_size))  # zeros: whoever reads them must notice
    loaded = load_index(tmp_path)
    assert loaded.n_items == 200_000
    np.testing.assert_array_equal(loaded.list_sizes, index.list_sizes)
    for name in ("item_ids", "packed_codes", "item_table"):
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
    assert sorted(read) == ["coarse_centroids", "codebook", "list_offsets"]
    assert_same(loaded, make_index())
    assert_same(loaded.with_n_probes(2), make_index())
    assert sorted(read[3:]) == ["codes", "item_ids"]


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


# Where a save is refused.


def test_save_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="got a file"):
        save_index(make_index(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["notes.txt", "codes.npy", "header-1.tmp", "codes-0000000g.npy"])
def test_save_refuses_a_directory_of_other_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"empty directory or an index.*{name}"):
        save_index(make_index(), tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_save_refuses_a_foreign_header(tmp_path: Path) -> None:
    (tmp_path / "header.json").write_text('{"title": "another tool"}')
    with pytest.raises(ValueError, match=r"expected an index to replace.*not an index"):
        save_index(make_index(), tmp_path)
    assert os.listdir(tmp_path) == ["header.json"]


def test_save_keeps_files_that_are_not_its_own(saved: Path) -> None:
    (saved / "notes.txt").write_text("precious")
    save_index(make_index(seed=1), saved)
    assert set(os.listdir(saved)) == named_files(saved) | {"notes.txt"}


@pytest.mark.parametrize("info", [{"x": float("nan")}, {"x": {1, 2}}, {(1, 2): "x"}])
def test_save_refuses_info_that_is_not_json(tmp_path: Path, info: dict[Any, Any]) -> None:
    index = make_index()
    index.info.update(info)
    with pytest.raises(ValueError, match="info: expected JSON values"):
        save_index(index, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_save_refuses_a_table_that_parquet_cannot_hold(tmp_path: Path) -> None:
    index = make_index(2, with_table=True)
    index.item_table["mixed"] = [1, "one"]
    with pytest.raises(ValueError, match="item_table: expected columns"):
        save_index(index, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_save_refuses_a_directory_being_saved_to(saved: Path) -> None:
    descriptor = os.open(saved, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match="another process is saving"):
        save_index(make_index(seed=1), saved)
    os.close(descriptor)
    assert_same(load_index(saved), make_index())
    save_index(make_index(seed=1), saved)


def test_file_systems_without_locks_and_directory_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    def no_locks(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "fsync", only_files)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    save_index(make_index(), tmp_path)
    assert_same(load_index(tmp_path), make_index())


# Saves that are interrupted.


def test_no_file_is_ever_written_over(tmp_path: Path) -> None:
    save_index(make_index(with_table=True), tmp_path / "index")
    before = files_of(tmp_path / "index")
    (tmp_path / "links").mkdir()
    for name in before:
        os.link(tmp_path / "index" / name, tmp_path / "links" / name)
    save_index(make_index(seed=1, with_table=True), tmp_path / "index")
    assert files_of(tmp_path / "links") == before


STEPS = [
    (os, "replace"),
    (os, "fsync"),
    (os, "unlink"),
    (_ChecksummedFile, "write"),
]


STEP_WRITE = _ChecksummedFile.write


def interrupt(patch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
    """Have the ``at``-th step of a save do ``act`` in the place of its work (half of a write)."""
    done = 0

    def stepping(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            nonlocal done
            done += 1
            if done == at:
                if step is STEP_WRITE:
                    step(args[0], args[1][: len(args[1]) // 2])
                act()
            return step(*args)

        return wrapped

    for owner, name in STEPS:
        patch.setattr(owner, name, stepping(getattr(owner, name)))


class Interrupted(BaseException):
    pass


def fail() -> None:
    raise Interrupted


@pytest.mark.parametrize("replaces", [True, False])
def test_a_save_that_fails_at_any_step(tmp_path: Path, replaces: bool) -> None:
    old, new = make_index(with_table=True), make_index(seed=1, with_table=True)
    seen = {"old": 0, "new": 0}
    for step in range(1, 1000):
        path = tmp_path / str(step)
        if replaces:
            save_index(old, path)
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, step, fail)
            try:
                save_index(new, path)
                break
            except Interrupted:
                pass
        seen[state_of(path, old, new, replaces)] += 1
        save_index(new, path)
        assert named_files(path) == set(os.listdir(path))
    assert seen["old"] > 15
    assert seen["new"] >= 1


# Without an item table the child runs no library that has threads, which don't survive a fork.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("replaces", [True, False])
def test_a_save_whose_process_is_killed_at_any_step(tmp_path: Path, replaces: bool) -> None:
    old, new = make_index(), make_index(seed=1)
    seen = {"old": 0, "new": 0}
    for step in range(1, 1000):
        path = tmp_path / str(step)
        if replaces:
            save_index(old, path)
        if not killed_in_save(new, path, step):
            break
        seen[state_of(path, old, new, replaces)] += 1
        save_index(new, path)
        assert_same(load_index(path), new)
        assert named_files(path) == set(os.listdir(path))
    assert seen["old"] > 15
    assert seen["new"] >= 1


def state_of(path: Path, old: Index, new: Index, replaces: bool) -> str:
    """Which index is at ``path``; fails unless it is one of the two, whole."""
    try:
        loaded = load_index(path)
    except (FileNotFoundError, IndexFormatError):
        if replaces:
            raise
        return "old"
    expected = old if loaded.info == old.info else new
    assert_same(loaded, expected)
    assert_same_table(loaded, expected)
    return "old" if expected is old else "new"


def killed_in_save(index: Index, path: Path, step: int) -> bool:
    """Save in a child process that kills itself at ``step``; False where it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            interrupt(pytest.MonkeyPatch(), step, lambda: os.kill(os.getpid(), signal.SIGKILL))
            save_index(index, path)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


# Damage: each kind has its own message.


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
        ({"format_version": 2}, "newer version: written in format 2.*upgrade"),
        ({"format_version": 2, "header": None}, "newer version"),
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


@pytest.mark.parametrize("name", ["codebook", "item_ids", "codes", "item_table"])
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
    loaded = load_index(tmp_path)
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


# Damage: whatever is done to the bytes, an IndexFormatError or the same answers.

ORIGINAL = make_index(12, with_table=True, rotated=True)


@pytest.fixture(scope="module")
def original_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_index(ORIGINAL, folder)
        return files_of(Path(folder))


def assert_harmless(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        with suppress(IndexFormatError):
            loaded = load_index(folder)
            assert_same(loaded, ORIGINAL)
            assert_same_table(loaded, ORIGINAL)
            assert loaded.info == ORIGINAL.info


@settings(max_examples=200)
@given(data=st.data())
def test_fuzz_bytes(original_files: dict[str, bytes], data: st.DataObject) -> None:
    files = dict(original_files)
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    position = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "truncate", "delete", "overwrite", "insert", "swap"]))
    if kind == "flip":
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "truncate":
        del content[position:]
    elif kind == "overwrite":
        junk = data.draw(st.binary(min_size=1, max_size=64))
        content[position : position + len(junk)] = junk
    elif kind == "insert":
        content[position:position] = data.draw(st.binary(min_size=1, max_size=8))
    elif kind == "swap":
        content = bytearray(files[data.draw(st.sampled_from(sorted(files)))])
    files[name] = bytes(content)
    if kind == "delete":
        del files[name]
    assert_harmless(files)


def test_every_byte_of_the_header(original_files: dict[str, bytes]) -> None:
    """One flipped bit anywhere in the header: an error, or the same header."""
    header = original_files["header.json"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "header.json").write_bytes(header)
        expected = read_header(path)
        for position in range(len(header)):
            damaged = bytearray(header)
            damaged[position] ^= 1 << position % 7
            (path / "header.json").write_bytes(damaged)
            with suppress(IndexFormatError):
                assert read_header(path) == expected


ODD_VALUES = st.one_of(
    st.sampled_from([None, True, 0, -1, 1, 1 << 31, 1 << 60, 1 << 70, 0.5, "", "x", [], {}]),
    st.lists(st.sampled_from([1 << 60, -1, 0, 3, "x"]), max_size=3),
    st.text(max_size=8),
)


@settings(max_examples=200)
@given(data=st.data())
def test_fuzz_header_values(data: st.DataObject, header_only: dict[str, bytes]) -> None:
    """Mutated values under a right checksum: what a faulty or hostile writer would make."""
    content = json.loads(header_only["header.json"])
    target: Any = content["header"]
    while True:
        key = data.draw(st.sampled_from(sorted(target)))
        deeper = isinstance(target[key], dict) and target[key]
        if not deeper or data.draw(st.booleans()):
            break
        target = target[key]
    if data.draw(st.booleans()):
        target[key] = data.draw(ODD_VALUES)
    else:
        del target[key]
    with tempfile.TemporaryDirectory() as folder:
        for name, file in header_only.items():
            (Path(folder) / name).write_bytes(file)
        write_header(Path(folder), content)
        with suppress(IndexFormatError):
            assert_same(load_index(folder).with_n_probes(2), make_index())


@pytest.fixture(scope="module")
def header_only() -> dict[str, bytes]:
    """An unrotated index: a header without ``rotation`` is a right one, of another index."""
    with tempfile.TemporaryDirectory() as folder:
        save_index(make_index(), folder)
        return files_of(Path(folder))


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
    table = index.item_table
    rows = None if table is None else json.loads(table.to_json(orient="records"))
    assert rows == expected["item_table"]


def test_golden_files_are_there() -> None:
    assert len(list(GOLDEN.glob("v1-*/"))) >= 4


def test_golden_can_be_replaced(tmp_path: Path) -> None:
    path = shutil.copytree(next(iter(sorted(GOLDEN.glob("v1-*/")))), tmp_path / "copy")
    save_index(make_index(), path)
    assert_same(load_index(path), make_index())
    assert named_files(path) == set(os.listdir(path))
