"""Saved query towers opened once a process, by path and fingerprint, as saved indexes are.

TensorFlow is imported where a tower is opened: operators without one do not need it.
"""

from __future__ import annotations

import shutil
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from merlin_poeem.atomic_files import whole_folder
from merlin_poeem.index.index import Index

if TYPE_CHECKING:
    from merlin_poeem.blocks.export.query_tower import QueryTower

_MOST_OPEN = 4
_lock = threading.Lock()


def fingerprint_of_tower(path: str, index: Index) -> str:
    """The fingerprint of the tower saved in ``path``, which ``index`` must be exported from.

    Raises what :func:`~merlin_poeem.blocks.export.query_tower.load_query_tower` and
    :func:`~merlin_poeem.blocks.check_fresh` raise.
    """
    from merlin_poeem.blocks.export.query_tower import load_query_tower
    from merlin_poeem.blocks.model.freshness import check_fresh

    fingerprint = load_query_tower(path).fingerprint
    check_fresh(index, {"query_tower": fingerprint})
    return fingerprint


def open_tower(path: str, fingerprint: str) -> QueryTower:
    """The tower saved in ``path``; ``ValueError`` where it is another than ``fingerprint`` says."""
    with _lock:
        return _tower(path, fingerprint)


def copy_tower(path: str, fingerprint: str, target: Path) -> None:
    """Copy the tower saved in ``path`` to ``target``, all of it or, where that fails, nothing."""
    if target.exists():
        return
    with whole_folder(target) as partial:
        shutil.copytree(path, partial, dirs_exist_ok=True)
        _load(str(partial), fingerprint)


@lru_cache(maxsize=_MOST_OPEN)
def _tower(path: str, fingerprint: str) -> QueryTower:
    return _load(path, fingerprint)


def _load(path: str, fingerprint: str) -> QueryTower:
    from merlin_poeem.blocks.export.query_tower import load_query_tower

    tower = load_query_tower(path)
    if tower.fingerprint != fingerprint:
        raise ValueError(
            f"{path}: expected the query tower with fingerprint {fingerprint}, got "
            f"{tower.fingerprint}: it was replaced since; make the workflow anew"
        )
    return tower
