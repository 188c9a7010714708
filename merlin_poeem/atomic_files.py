"""Files and folders that appear whole or not at all, and are still there after a crash."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_reachable(path: str | os.PathLike[str]) -> None:
    """``ValueError`` where nothing can be made at ``path``, as the way there is no folder.

    That is where it or a folder above is a link that leads nowhere, or where a file is in the way.
    """
    path = Path(path).absolute()
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            raise ValueError(
                f"{path}: expected a place to save to, got a link to nowhere: {part} leads to "
                f"{os.readlink(part)}, which is not there; delete the link, or make that"
            )
        if part != path and part.exists() and not part.is_dir():
            raise ValueError(f"{path}: expected a folder to save in, got a file: {part}")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that did not exist before and is on the disk after: ``FileExistsError`` if it did."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` when the block ends without an error.

    ``ValueError`` as of :func:`check_reachable`.
    """
    check_reachable(path)
    path = Path(path)
    temporary = _beside(path)
    try:
        with new_file(temporary) as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


@contextmanager
def whole_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A new folder that becomes ``path`` when the block ends without an error.

    ``OSError`` where ``path`` is a folder that holds anything, unless it may ``replace`` it: then
    there is one of the two at ``path`` at any time. A file system that cannot exchange two folders
    (NFS) has a moment with neither; the old one is then beside it, under a name that ends in .tmp.
    Where ``path`` is a link to a folder, it stays one: the new folder is where it leads to.
    ``ValueError`` as of :func:`check_reachable`.
    """
    check_reachable(path)
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    partial.mkdir()
    try:
        yield partial
        if replace and path.exists():
            _exchange(partial, path)
        else:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make the names in the directory ``path`` durable, where its file system knows how."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}-{os.urandom(4).hex()}.tmp")


def _exchange(first: Path, second: Path) -> None:
    """Swap the names of two folders in one step of the file system."""
    # Python has no call for it; the C library of Linux does.
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if not libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(second))
    old = _beside(second)
    second.rename(old)
    first.rename(second)
    old.rename(first)
