"""MovieLens as its publisher packs it: two variants of text files, read into the same frames.

All ratings count as positives, whatever their stars: a user chose to watch the film.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

FOLDERS = {"100k": "ml-100k", "1m": "ml-1m"}
TEST_SHARE = 0.2
UNKNOWN_YEAR = 0
PREPARED = ("interactions_train.parquet", "interactions_test.parquet")
GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)

Columns = Mapping[str, type]
ReadPairs = Callable[[Path], pd.DataFrame]
_NO_PAIRS = pd.DataFrame({"user_id": np.empty(0, np.int64), "item_id": np.empty(0, np.int64)})


@dataclass(frozen=True)
class MovieLens:
    """One variant, split into what a model sees and what it shall find; the publisher's ids."""

    name: str
    """``ml-100k`` or ``ml-1m``."""
    train: pd.DataFrame
    """``user_id, item_id`` int64, a row a rating."""
    test: pd.DataFrame
    """The same, of other pairs."""
    users: pd.DataFrame
    """``user_id`` int64, ``gender, age, occupation, zip``: a row a user."""
    items: pd.DataFrame
    """``item_id`` int64, ``title``, ``year`` int64 (0: unknown), ``genres`` lists: a row a film."""


def read(folder: Path, variant: str, seed: int = 0) -> MovieLens:
    """Read ``variant`` from ``folder``, or from the ``ml-100k`` or ``ml-1m`` within it.

    The 1M variant may hold ``interactions_train.parquet`` and ``interactions_test.parquet``
    (``user_id, movie_id``) in the place of ``ratings.dat``; else a random 20 % of the ratings,
    drawn with ``seed``, are the test.

    Raises
    ------
    FileNotFoundError
        The folder or one of its files is missing; all missing ones are named.
    ValueError
        Malformed lines, repeated ids or pairs, or ratings of unknown users or films: counted, with
        the first of them.
    """
    return _read(folder, variant, seed, _read_pairs)


def read_train(folder: Path, variant: str, seed: int = 0) -> MovieLens:
    """As :func:`read`, with no rows in ``test``: a file of test pairs is not opened."""
    data = _read(folder, variant, seed, lambda path: _NO_PAIRS)
    return replace(data, test=_NO_PAIRS)


def _read(folder: Path, variant: str, seed: int, read_test: ReadPairs) -> MovieLens:
    name = FOLDERS[variant]
    folder = folder / name if (folder / name).is_dir() else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder with {name}, got none")
    data = _read_100k(folder, seed) if variant == "100k" else _read_1m(folder, seed, read_test)
    _check(data)
    return data


def _read_100k(folder: Path, seed: int) -> MovieLens:
    _check_files(folder, ["u.data", "u.item", "u.user"])
    ratings = {"user_id": int, "item_id": int, "rating": int, "timestamp": int}
    pairs = _read_text(folder / "u.data", "\t", ratings)
    users = _read_text(
        folder / "u.user",
        "|",
        {"user_id": int, "age": int, "gender": str, "occupation": str, "zip": str},
    )
    flags = dict.fromkeys(GENRES_100K, int)
    texts = dict.fromkeys(("title", "released", "video_released", "url"), str)
    films = _read_text(folder / "u.item", "|", {"item_id": int, **texts, **flags})
    names = np.array(GENRES_100K)
    films["genres"] = [list(names[row]) for row in films[list(GENRES_100K)].to_numpy() == 1]
    return _split("ml-100k", pairs, users, films, seed)


def _read_1m(folder: Path, seed: int, read_test: ReadPairs) -> MovieLens:
    prepared = [folder / name for name in PREPARED]
    is_prepared = all(path.is_file() for path in prepared)
    _check_files(folder, ["movies.dat", "users.dat", *([] if is_prepared else ["ratings.dat"])])
    users = _read_text(
        folder / "users.dat",
        "::",
        {"user_id": int, "gender": str, "age": int, "occupation": int, "zip": str},
    )
    films = _read_text(folder / "movies.dat", "::", {"item_id": int, "title": str, "genres": str})
    films["genres"] = films["genres"].str.split("|")
    if is_prepared:
        train, test = _read_pairs(prepared[0]), read_test(prepared[1])
        return MovieLens("ml-1m", train, test, users, _with_year(films))
    ratings = {"user_id": int, "item_id": int, "rating": int, "timestamp": int}
    pairs = _read_text(folder / "ratings.dat", "::", ratings)
    return _split("ml-1m", pairs, users, films, seed)


def _read_pairs(path: Path) -> pd.DataFrame:
    pairs = pd.read_parquet(path)
    missing = {"user_id", "movie_id"} - set(pairs.columns)
    if missing:
        raise ValueError(
            f"{path}: expected the columns {sorted(missing)}, got {list(pairs.columns)}"
        )
    return pairs[["user_id", "movie_id"]].rename(columns={"movie_id": "item_id"}).astype(np.int64)


def _split(
    name: str, ratings: pd.DataFrame, users: pd.DataFrame, films: pd.DataFrame, seed: int
) -> MovieLens:
    if len(ratings) < 2:
        raise ValueError(f"{name}: expected at least two ratings, got {len(ratings)}")
    pairs = ratings[["user_id", "item_id"]]
    order = np.random.default_rng(seed).permutation(len(pairs))
    n_test = max(1, round(TEST_SHARE * len(pairs)))
    test, train = (
        pairs.iloc[np.sort(rows)].reset_index(drop=True)
        for rows in (order[:n_test], order[n_test:])
    )
    return MovieLens(name, train, test, users, _with_year(films))


def _with_year(films: pd.DataFrame) -> pd.DataFrame:
    """Films with the year that ends their title, as in ``Toy Story (1995)``."""
    year = films["title"].str.extract(r"\((\d{4})\)\s*$", expand=False)
    return films.assign(year=year.fillna(str(UNKNOWN_YEAR)).astype(np.int64))[
        ["item_id", "title", "year", "genres"]
    ]


def _read_text(path: Path, separator: str, columns: Columns) -> pd.DataFrame:
    """A text file of one record a line; ``ValueError`` counts and shows the lines that are none."""
    text = path.read_bytes().decode("latin-1")
    # Not splitlines(): Latin-1 text holds characters that it takes for line ends.
    lines = [line.rstrip("\r").split(separator) for line in text.removesuffix("\n").split("\n")]
    right = np.array([len(fields) == len(columns) for fields in lines])
    for i, kind in enumerate(columns.values()):
        if kind is int:
            right &= np.array([i < len(fields) and _is_int(fields[i]) for fields in lines])
    if not right.all():
        _report_lines(path, lines, np.flatnonzero(~right), separator, columns)
    values = dict(zip(columns, zip(*lines, strict=True), strict=True))
    return pd.DataFrame(
        {
            name: np.array(values[name], np.int64) if kind is int else list(values[name])
            for name, kind in columns.items()
        }
    )


def _is_int(field: str) -> bool:
    return field.isascii() and field.isdigit()


def _report_lines(
    path: Path, lines: list[list[str]], wrong: np.ndarray, separator: str, columns: Columns
) -> None:
    shown = "; ".join(f"line {i + 1}: {separator.join(lines[i])[:80]!r}" for i in wrong[:3])
    integers = ", ".join(name for name, kind in columns.items() if kind is int)
    raise ValueError(
        f"{path}: expected {len(columns)} fields separated by {separator!r} in every line, whole "
        f"numbers in {integers}; got {len(wrong)} malformed of {len(lines)} lines ({shown})"
    )


def _check_files(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        hint = f" (or {' and '.join(PREPARED)})" if "ratings.dat" in missing else ""
        raise FileNotFoundError(
            f"{folder}: expected the files {', '.join(missing)}{hint}, got none"
        )


def _check(data: MovieLens) -> None:
    _refuse(data.users.duplicated("user_id"), data.users, "users: expected each id once")
    _refuse(data.items.duplicated("item_id"), data.items, "films: expected each id once")
    pairs = pd.concat([data.train, data.test], ignore_index=True)
    _refuse(pairs.duplicated(), pairs, "ratings: expected each pair of user and film once")
    for id_name, known in (("user_id", data.users), ("item_id", data.items)):
        unknown = ~pairs[id_name].isin(known[id_name])
        _refuse(unknown, pairs, f"ratings: expected every {id_name} to be described")


def _refuse(wrong: pd.Series, frame: pd.DataFrame, expectation: str) -> None:
    if wrong.any():
        first = frame[wrong].iloc[0].to_dict()
        raise ValueError(f"{expectation}; got {int(wrong.sum())} that break it, the first {first}")
