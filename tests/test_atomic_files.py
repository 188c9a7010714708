"""Files and folders that appear whole or not at all, wherever the writing stops."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from merlin_poeem.atomic_files import (
    check_reachable,
    fsync_directory,
    new_file,
    replacing_file,
    whole_folder,
)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_and_fail(file: BinaryIO) -> None:
    file.write(b"new")
    raise KeyError


def link_to_nowhere(folder: Path) -> Path:
    link = folder / "link"
    link.symlink_to(folder / "nowhere")
    return link


MAKERS = [replacing_file, whole_folder, lambda path: whole_folder(path, replace=True)]


class TestUnreachable:
    """What can't be made is told before anything is written."""

    @pytest.mark.parametrize("make", MAKERS)
    @pytest.mark.parametrize("below", ["", "a", "a/b"])
    def test_links_to_nowhere(self, tmp_path: Path, make: Any, below: str) -> None:
        link = link_to_nowhere(tmp_path)
        message = f"got a link to nowhere: {link} leads to {tmp_path}/nowhere, which is not there"
        with pytest.raises(ValueError, match=message), make(link / below):
            pass
        assert os.listdir(tmp_path) == ["link"]

    @pytest.mark.parametrize("make", MAKERS)
    @pytest.mark.parametrize("below", ["a", "a/b"])
    def test_below_a_file(self, tmp_path: Path, make: Any, below: str) -> None:
        (tmp_path / "file").write_text("old")
        message = f"expected a folder to save in, got a file: {tmp_path}/file"
        with pytest.raises(ValueError, match=message), make(tmp_path / "file" / below):
            pass
        assert contents(tmp_path) == {"file": "old"}

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(ValueError, match="got a link to nowhere"):
            check_reachable(tmp_path / "a")

    def test_what_is_there_or_may_be(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "folder")
        for path in ("folder", "link", "link/a/b", "folder/a", "free/a"):
            check_reachable(tmp_path / path)


class TestNewFile:
    def test_is_there(self, tmp_path: Path) -> None:
        with new_file(tmp_path / "a") as file:
            file.write(b"new")
        assert contents(tmp_path) == {"a": "new"}

    def test_replaces_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old")
        with pytest.raises(FileExistsError), new_file(tmp_path / "a"):
            pass
        assert contents(tmp_path) == {"a": "old"}


class TestReplacingFile:
    @pytest.mark.parametrize("before", [{}, {"a": "old"}])
    def test_takes_the_place(self, tmp_path: Path, before: dict[str, str]) -> None:
        for name, text in before.items():
            (tmp_path / name).write_text(text)
        with replacing_file(tmp_path / "a") as file:
            file.write(b"new")
            file.flush()
            assert {name: contents(tmp_path).get(name) for name in before} == before
        assert contents(tmp_path) == {"a": "new"}

    def test_an_error_leaves_what_was_there(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old")
        with pytest.raises(KeyError), replacing_file(tmp_path / "a") as file:
            write_and_fail(file)
        assert contents(tmp_path) == {"a": "old"}


class TestWholeFolder:
    def test_appears_at_the_end_with_its_parents(self, tmp_path: Path) -> None:
        path = tmp_path / "parent" / "a"
        with whole_folder(path) as partial:
            (partial / "f").write_text("new")
            assert not path.exists()
        assert contents(tmp_path) == {"parent/a/f": "new"}

    def test_an_empty_folder_may_be_there(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with whole_folder(tmp_path / "a") as partial:
            (partial / "f").write_text("new")
        assert contents(tmp_path) == {"a/f": "new"}

    @pytest.mark.parametrize("replace", [False, True])
    def test_an_error_leaves_what_was_there(self, tmp_path: Path, replace: bool) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "f").write_text("old")
        with (
            pytest.raises(KeyError),
            whole_folder(tmp_path / "a", replace=replace) as partial,
            (partial / "f").open("wb") as file,
        ):
            write_and_fail(file)
        assert contents(tmp_path) == {"a/f": "old"}

    def test_what_is_there_stays_unless_it_may_be_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "f").write_text("old")
        with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "a") as partial:
            (partial / "f").write_text("new")
        assert contents(tmp_path) == {"a/f": "old"}

    def test_a_link_to_a_folder_stays_one(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "old").write_text("old")
        (tmp_path / "link").symlink_to("a")
        with whole_folder(tmp_path / "link", replace=True) as partial:
            (partial / "new").write_text("new")
        assert contents(tmp_path) == {"a/new": "new"}
        assert (tmp_path / "link").is_symlink()
        assert sorted(os.listdir(tmp_path)) == ["a", "link"]

    @pytest.mark.parametrize("exchanges", [True, False])
    def test_replaces(
        self, tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not exchanges:
            without_exchange(monkeypatch, errno.EINVAL)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "old").write_text("old")
        with whole_folder(tmp_path / "a", replace=True) as partial:
            (partial / "new").write_text("new")
        assert contents(tmp_path) == {"a/new": "new"}

    def test_other_errors_of_the_exchange_are_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_exchange(monkeypatch, errno.EACCES)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "f").write_text("old")
        with pytest.raises(PermissionError), whole_folder(tmp_path / "a", replace=True):
            pass
        assert contents(tmp_path) == {"a/f": "old"}

    def test_a_reader_finds_one_of_the_two_at_any_time(self, tmp_path: Path) -> None:
        """A process that replaces the folder over and over, killed in the middle of it."""
        path = tmp_path / "a"
        with whole_folder(path) as partial:
            (partial / "f").write_text("whole")
        child = os.fork()
        if not child:
            while True:
                with whole_folder(path, replace=True) as partial:
                    (partial / "f").write_text("whole")
        try:
            for _ in range(2000):
                # A folder once opened is the one that was there, whatever its name is now.
                folder = os.open(path, os.O_RDONLY)
                names = os.listdir(folder)
                os.close(folder)
                assert names in (["f"], [])  # the old one is emptied after it was exchanged
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert (path / "f").read_text() == "whole"


def without_exchange(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A C library whose ``renameat2`` fails with the error ``number``."""

    def renameat2(*_: Any) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=renameat2))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_without_fsync_of_directories(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    fsync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: fsync_error())
    with pytest.raises(OSError, match="Input/output"):
        fsync_directory(tmp_path)


def fsync_error() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
