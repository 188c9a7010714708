"""Saved indexes opened once a process, by path and fingerprint.

What travels to another process, a Dask worker or a loaded workflow, is the path of a saved index
and its fingerprint: a few bytes, and nothing that is open. Each process opens it on first use, for
all partitions and operators, and refuses another index that was saved there since.
"""

from __future__ import annotations

import os
import shutil
import threading
import zlib
from functools import lru_cache
from pathlib import Path

from merlin_poeem.atomic_files import whole_folder
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index
from merlin_poeem.index.stored_files import HEADER_FILE

MOST_OPEN = 4
_lock = threading.Lock()


def fingerprint_of(path: str | os.PathLike[str]) -> str:
    """Eight hexadecimal digits that tell one saved index from another.

    Of the header, which holds the checksums of all arrays.
    """
    return f"{zlib.crc32((Path(path) / HEADER_FILE).read_bytes()):08x}"


def open_index(path: str, fingerprint: str) -> Index:
    """The index saved in ``path``; ``ValueError`` where it is another than ``fingerprint`` says."""
    with _lock:
        return _index(path, fingerprint)


def copy_index(path: str, fingerprint: str, target: Path) -> None:
    """Copy the index saved in ``path`` to ``target``, all of it or, where that fails, nothing."""
    if target.exists():
        return
    with whole_folder(target) as partial:
        shutil.copytree(path, partial, dirs_exist_ok=True)
        _check_fingerprint(path, fingerprint, found=fingerprint_of(partial))


@lru_cache(maxsize=MOST_OPEN)
def _index(path: str, fingerprint: str) -> Index:
    index = load_index(path)
    _check_fingerprint(path, fingerprint, found=fingerprint_of(path))
    return index


def _check_fingerprint(path: str, fingerprint: str, *, found: str) -> None:
    if found != fingerprint:
        raise ValueError(
            f"{path}: expected the index with fingerprint {fingerprint}, got {found}: "
            "it was replaced since; start anew with the one that is there"
        )
