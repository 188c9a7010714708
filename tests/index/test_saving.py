"""Saving: round trips, what is refused, and saves that are interrupted at any step."""

import fcntl
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import _ChecksummedFile, save_index
from merlin_poeem.index.stored_files import IndexFormatError
from merlin_poeem.quantization.stored_vectors import VectorDtype
from tests.index.saved_indexes import (
    DIM,
    assert_same,
    assert_same_table,
    files_of,
    make_index,
    named_files,
)

# Round trips.


@pytest.mark.parametrize("pq_bits", [1, 4, 6, 8, 9, 16])
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_round_trip(tmp_path: Path, pq_bits: int, metric: str) -> None:
    index = make_index(pq_bits=pq_bits, metric=metric, rotated=pq_bits > 4)
    save_index(index, tmp_path)
    assert_same(load_index(tmp_path), index)
    assert named_files(tmp_path) == set(os.listdir(tmp_path))


@pytest.mark.parametrize("vectors", ["float16", "int8"])
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_round_trip_of_vectors(tmp_path: Path, metric: str, vectors: VectorDtype) -> None:
    index = make_index(metric=metric, rotated=True, vectors=vectors)
    for saved in (index, index.with_refine(7), index.with_refine(0)):
        save_index(saved, tmp_path)
        assert_same(load_index(tmp_path), saved)
    save_index(index.without_vectors(), tmp_path)
    assert_same(load_index(tmp_path), make_index(metric=metric, rotated=True))
    assert named_files(tmp_path) == set(os.listdir(tmp_path))


@pytest.mark.parametrize(("metric", "scales"), [("inner_product", False), ("cosine", True)])
def test_round_trip_of_a_stretched_space(tmp_path: Path, metric: str, scales: bool) -> None:
    index = make_index(metric=metric, rotated="stretched", scales=scales, vectors="int8")
    save_index(index, tmp_path)
    assert_same(load_index(tmp_path), index)


def test_older_releases_read_what_they_can(tmp_path: Path) -> None:
    for rotated, version in ((False, 2), (True, 2), ("stretched", 3), (True, 2)):
        save_index(make_index(rotated=rotated), tmp_path)
        assert json.loads((tmp_path / "header.json").read_text())["format_version"] == version


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


# Where a save is refused.


def test_save_refuses_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "link", tmp_path / "link" / "index"):
        with pytest.raises(ValueError, match=r"got a link to nowhere: .*/link leads to .*/nowhere"):
            save_index(make_index(), path)
    (tmp_path / "nowhere").mkdir()
    save_index(make_index(), tmp_path / "link")
    assert_same(load_index(tmp_path / "nowhere"), make_index())


def test_save_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="got a file"):
        save_index(make_index(), tmp_path / "file")
    with pytest.raises(ValueError, match="expected a folder to save in, got a file"):
        save_index(make_index(), tmp_path / "file" / "index")
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
