"""Check-ins: the published lines, the stand-in, and vectors that find held-out places."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

from merlin_poeem.evaluate import exact_search, recall_at_k
from workflows.gowalla.data import read
from workflows.gowalla.simulate import simulate
from workflows.gowalla.vectors import factorize
from workflows.judged import items_of


def write(folder: Path, train: str, test: str = "0 5\n") -> Path:
    for part, text in (("train", train), ("test", test)):
        with gzip.open(folder / f"{part}.txt.gz", "wt") as file:
            file.write(text)
    return folder


def test_lines_become_pairs(tmp_path: Path) -> None:
    check_ins = read(write(tmp_path, "0 3 1\n1 2\n2\n", "0 5\n2 7 8\n"))
    expected = pd.DataFrame({"user_id": [0, 0, 1], "item_id": [3, 1, 2]})
    pd.testing.assert_frame_equal(check_ins.train, expected)
    visits = items_of(np.array([2, 1, 0]), check_ins.test)
    assert [visits.row(i).tolist() for i in range(3)] == [[7, 8], [], [5]]


@pytest.mark.parametrize("line", ["", "1 x 2", "1,2", "1 -2"])
def test_malformed_lines_are_located(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"train\.txt\.gz, line 2: expected a user and places"):
        read(write(tmp_path, f"0 3\n{line}\n4 5\n"))


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.txt\.gz: expected a line a user, got none"):
        read(write(tmp_path, ""))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path)


def test_published_split(dataset_dir: Callable[[str], Path]) -> None:
    check_ins = read(dataset_dir("gowalla"))
    assert (len(check_ins.train), len(check_ins.test)) == (810_128, 217_242)
    assert check_ins.train["user_id"].nunique() == 29_858
    assert check_ins.test["user_id"].isin(check_ins.train["user_id"]).all()


def test_vectors_find_held_out_places() -> None:
    check_ins = simulate(n_users=200, n_items=1_000, seed=3)
    pairs = pd.concat([check_ins.train, check_ins.test])
    assert not pairs.duplicated().any()
    assert check_ins.test["user_id"].isin(check_ins.train["user_id"]).all()
    vectors = factorize(check_ins.train, dim=32)
    assert vectors.users.shape == (len(vectors.user_ids), 32)
    assert vectors.users.dtype == vectors.items.dtype == np.float32
    seen, relevant = (
        items_of(vectors.user_ids, part) for part in (check_ins.train, check_ins.test)
    )
    found = exact_search(vectors.item_ids, vectors.items, vectors.users, k=20, exclude=seen)
    by_chance = 20 / 1_000
    assert recall_at_k(found, relevant, 20) > 5 * by_chance


def test_user_vectors_are_means_of_their_places() -> None:
    pairs = simulate(n_users=50, n_items=300, seed=1).train
    vectors = factorize(pairs, dim=16)
    user = int(vectors.user_ids[7])
    places = pairs["item_id"][pairs["user_id"] == user].to_numpy()
    degrees = pairs["item_id"].value_counts()
    rows = np.searchsorted(vectors.item_ids, places)
    expected = (vectors.items[rows] / degrees[places].to_numpy()[:, None]).sum(axis=0)
    np.testing.assert_allclose(vectors.users[7], expected / np.sqrt(len(places)), rtol=1e-4)
