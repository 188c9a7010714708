"""Gowalla: the places that users checked in at, as the LightGCN authors split them.

A pair of columns ``user_id, item_id`` is a user and a place.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class CheckIns:
    """Who was where, split into what is known and what shall be found."""

    train: pd.DataFrame
    """``user_id, item_id`` int64, a row a pair."""
    test: pd.DataFrame
    """The same, of other pairs; every user has some in ``train``."""


def read(folder: Path) -> CheckIns:
    """The split that LightGCN published: ``train.txt.gz``, ``test.txt.gz``, a line a user.

    Raises ``FileNotFoundError`` where a file is missing, ``ValueError`` on a line that is not whole
    numbers, with its number, and on a file without lines.
    """
    return CheckIns(*(_read_lines(Path(folder) / f"{part}.txt.gz") for part in ("train", "test")))


def read_train(folder: Path) -> pd.DataFrame:
    """``user_id, item_id`` of ``train.txt.gz`` alone; errors as of :func:`read`."""
    return _read_lines(Path(folder) / "train.txt.gz")


def _read_lines(path: Path) -> pd.DataFrame:
    users, lengths, places = [], [], []
    with gzip.open(path, "rt", encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields or not all(field.isdigit() for field in fields):
                raise ValueError(
                    f"{path}, line {number}: expected a user and places, whole numbers; "
                    f"got {line[:60]!r}"
                )
            users.append(int(fields[0]))
            lengths.append(len(fields) - 1)
            places.append(np.array(fields[1:], np.int64))
    if not users:
        raise ValueError(f"{path}: expected a line a user, got none")
    user_ids = np.repeat(np.array(users, np.int64), lengths)
    return pd.DataFrame({"user_id": user_ids, "item_id": np.concatenate(places)})
