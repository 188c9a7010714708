"""MovieLens, small, as its publisher packs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.movielens.published import N_FILMS, N_USERS, pairs, title, write
from workflows.movielens.data import GENRES_100K


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    """A folder in the format of MovieLens 1M."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    write(folder / "ratings.dat", [f"{u}::{f}::4::9783{f:05d}" for u, f in pairs()])
    users = [f"{u}::{'FM'[u % 2]}::25::{u % 20}::0{u:04d}-12" for u in range(1, N_USERS + 1)]
    write(folder / "users.dat", users)
    films = [
        f"{f}::{title(f)}::{'Drama|War' if f % 2 else 'Comedy'}" for f in range(1, N_FILMS + 1)
    ]
    write(folder / "movies.dat", films)
    return folder


@pytest.fixture
def ml_100k(tmp_path: Path) -> Path:
    """A folder in the format of MovieLens 100K."""
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    write(folder / "u.data", [f"{u}\t{f}\t4\t88125{f:04d}" for u, f in pairs()])
    users = [f"{u}|{20 + u}|{'FM'[u % 2]}|writer|T8H{u}N" for u in range(1, N_USERS + 1)]
    write(folder / "u.user", users)
    flags = {0: "|".join("1" if g == "Comedy" else "0" for g in GENRES_100K)}
    flags[1] = "|".join("1" if g in ("Drama", "War") else "0" for g in GENRES_100K)
    films = [f"{f}|{title(f)}|01-Jan-1995||http://x|{flags[f % 2]}" for f in range(1, N_FILMS + 1)]
    write(folder / "u.item", films)
    return folder


@pytest.fixture(params=["1m", "100k"])
def variant_and_folder(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(f"ml_{request.param}")
