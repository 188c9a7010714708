"""Gowalla: the places that users checked in at, and vectors for users and places without training.

Vectors come of a singular value decomposition, so nothing here needs TensorFlow. A pair of columns
``user_id, item_id`` is a user and a place.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd

from merlin_poeem import IdLists
from merlin_poeem.arrays import Float32, Int64

SIMULATED_TASTES = 20


@dataclass(frozen=True)
class CheckIns:
    """Who was where, split into what is known and what shall be found."""

    train: pd.DataFrame
    """``user_id, item_id`` int64, a row a pair."""
    test: pd.DataFrame
    """The same, of other pairs; every user has some in ``train``."""

    def visits(self, users: Int64, part: pd.DataFrame) -> IdLists:
        """The places of each of ``users`` in a part."""
        places = part.groupby("user_id")["item_id"].apply(np.array)
        return IdLists.from_rows([places.get(user) for user in users])


def read(folder: Path) -> CheckIns:
    """The split that LightGCN published: ``train.txt.gz``, ``test.txt.gz``, a line a user.

    Raises ``FileNotFoundError`` where a file is missing, ``ValueError`` on a line that is not whole
    numbers, with its number, and on a file without lines.
    """
    return CheckIns(*(_read_lines(Path(folder) / f"{part}.txt.gz") for part in ("train", "test")))


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


def simulate(n_users: int, n_items: int, *, visits: int = 30, seed: int = 0) -> CheckIns:
    """A stand-in for the real pairs: users visit places of two tastes, and now and then others.

    About ``visits`` a user; places with low ids are the popular ones.
    """
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, SIMULATED_TASTES, n_items)
    favourite = rng.integers(0, SIMULATED_TASTES, (n_users, 2))
    users = np.repeat(np.arange(n_users), 10 * visits)
    places = (n_items * rng.random(len(users)) ** 1.5).astype(np.int64)
    liked = (favourite[users] == taste[places, None]).any(axis=1)
    kept = liked | (rng.random(len(users)) < 0.02)
    pairs = pd.DataFrame({"user_id": users[kept], "item_id": places[kept]}).drop_duplicates()
    is_test = rng.random(len(pairs)) < 0.2
    train, test = pairs[~is_test], pairs[is_test]
    return CheckIns(train, test[test["user_id"].isin(train["user_id"])])


@dataclass(frozen=True)
class Vectors:
    """Users and places in one space: their inner product says how likely the visit is."""

    user_ids: Int64
    users: Float32
    """(n_users, dim) float32."""
    item_ids: Int64
    items: Float32
    """(n_items, dim) float32."""


def factorize(pairs: pd.DataFrame, dim: int, seed: int = 0) -> Vectors:
    """The first ``dim`` singular vectors of the visits, each user and place scaled by its degree.

    This is the low-pass filter of GF-CF (Shen et al., CIKM 2021): a user's vector is the mean of
    the places visited, the popular ones counting less.
    """
    user_ids, rows = np.unique(pairs["user_id"], return_inverse=True)
    item_ids, columns = np.unique(pairs["item_id"], return_inverse=True)
    by_user, by_item = np.bincount(rows) ** -0.5, np.bincount(columns) ** -0.5
    weights = (by_user[rows] * by_item[columns]).astype(np.float32)
    visits = csr_matrix((weights, (rows, columns)), (len(user_ids), len(item_ids)))
    _, _, places = randomized_svd(visits, dim, n_iter=3, random_state=seed)
    places = np.ascontiguousarray(places.T, np.float32)
    return Vectors(
        user_ids,
        np.asarray(visits @ places, np.float32),
        item_ids,
        (places / by_item[:, None]).astype(np.float32),
    )
