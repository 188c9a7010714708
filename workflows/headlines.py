"""Semantic search in news headlines: read, encode, index, save, and answer queries.

A Million News Headlines (Rohit Kulkarni, doi:10.7910/DVN/SYBGZL): a csv file of ``publish_date``
and ``headline_text``.

    python -m workflows.headlines --data FOLDER --query "confronting global challenges"
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from merlin_poeem import tune
from merlin_poeem.encoders import NNLM, open_encoder
from merlin_poeem.frames.text_index import Encoder, TextIndex

FOLDER = "abcnews"
FILES = ("abcnews-date-text.csv.gz", "abcnews-date-text.csv")
COLUMNS = ["publish_date", "headline_text"]
QUERY = "confronting global challenges"
RESULTS = Path("results")
# Headlines of the index find each other a little more easily than new texts find them.
TARGET = 0.97
TUNING_QUERIES = 500


@dataclass(frozen=True)
class Headlines:
    """What a file holds."""

    frame: pd.DataFrame
    """``id`` int64 (the row in the file, from 0), ``publish_date`` int64, ``headline_text``."""
    n_rows: int
    """Rows in the file, without its header."""
    dropped: dict[str, int]
    """Rows left out, by reason."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        return (
            f"{len(self.frame):,} headlines of {self.n_rows:,} rows; dropped: {reasons or 'none'}"
        )


def read(path: Path) -> Headlines:
    """Read a file, or the one in a folder or its ``abcnews/``; repeated headlines are kept.

    Raises ``FileNotFoundError`` where there is none, ``ValueError`` where it has other columns or
    no headline, or is damaged.
    """
    path = _find(path)
    kept, dropped = [], Counter[str]()
    with _open(path) as file:
        rows = _rows(path, file)
        header = next(rows, [])
        if header != COLUMNS:
            raise ValueError(f"{path}: expected the columns {COLUMNS}, got {header[:5]}")
        for number, row in enumerate(rows):
            fault = _fault(row)
            if fault:
                dropped[fault] += 1
            else:
                kept.append((number, int(row[0]), row[1].strip()))
    if not kept:
        raise ValueError(f"{path}: expected at least one headline, got none; {dict(dropped)}")
    ids, dates, texts = zip(*kept, strict=True)
    frame = pd.DataFrame(
        {
            "item_id": np.array(ids, np.int64),
            "publish_date": np.array(dates, np.int64),
            "headline_text": list(texts),
        }
    )
    return Headlines(frame, len(kept) + dropped.total(), dict(dropped))


def simulate(n_headlines: int = 2000, seed: int = 0) -> pd.DataFrame:
    """A stand-in where the file is absent: headlines put together at random from a few phrases."""
    rng = np.random.default_rng(seed)
    parts = [rng.choice(phrases, n_headlines) for phrases in PHRASES]
    texts = [" ".join(words) for words in zip(*parts, strict=True)]
    dates = 20030219 + rng.integers(0, 9, n_headlines)
    ids = np.arange(n_headlines)
    return pd.DataFrame({"item_id": ids, "publish_date": dates, COLUMNS[1]: texts})


def build(frame: pd.DataFrame, encoder: Encoder, **options: Any) -> TextIndex:
    """:meth:`TextIndex.build` of headlines."""
    return TextIndex.build(
        frame, encoder, text="headline_text", item_table=["publish_date"], **options
    )


def tuned(texts: TextIndex, encoder: Encoder, *, target: float, k: int = 10) -> TextIndex:
    """The same index, which by default finds the share ``target`` of a headline's nearest ``k``.

    Measured on headlines of the index itself, which are never among their own.
    """
    held, rng = texts.index.item_ids, np.random.default_rng(0)
    asked = rng.choice(held, min(TUNING_QUERIES, len(held)), replace=False)
    itself = [[item_id] for item_id in asked]
    found = tune(texts.index, texts.index.vectors_of(asked), k, target=target, exclude=itself)
    setting = found.setting
    print(
        f"n_probes {setting.n_probes} and refine {setting.refine} find {setting.quality:.3f} of "
        f"the nearest {k}; {setting.items_scanned:,.0f} headlines are scanned."
    )
    return TextIndex(found.index, encoder)


def show(found: pd.DataFrame) -> str:
    """The headlines found, a paragraph a query."""
    lines = []
    for query, rows in found.groupby("query", sort=False):
        lines.append(f"\n{query}")
        lines += [
            f"  {row.rank:2d}. {row.score:.3f}  {row.publish_date}  {row.headline_text}"
            for row in rows.itertuples()
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Index and search from the command line."""
    options = _parser().parse_args(arguments)
    try:
        texts = _texts(options)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    start = time.perf_counter()
    found = texts.search(options.query or [QUERY], k=options.k, n_probes=options.n_probes)
    milliseconds = 1000 * (time.perf_counter() - start)
    print(f"{texts.index}, searched with {texts.searcher.backend} in {milliseconds:.1f} ms")
    print(show(found))


def _texts(options: argparse.Namespace) -> TextIndex:
    encoder = open_encoder(options.encoder)
    if options.load:
        return TextIndex.load(options.index, encoder)
    if options.data is None:
        raise ValueError("--data: expected the file or its folder, got none")
    headlines = read(options.data)
    print(headlines)
    start = time.perf_counter()
    texts = build(
        headlines.frame,
        encoder,
        project_to=options.project_to,
        store_vectors="float16",
        n_partitions=options.partitions,
        seed=options.seed,
    )
    print(f"Encoded and indexed in {time.perf_counter() - start:.1f} s.")
    texts = tuned(texts, encoder, target=options.target)
    texts.save(options.index)
    n_bytes = sum(file.stat().st_size for file in options.index.iterdir())
    print(f"Saved {options.index}, {n_bytes / 1e6:.1f} MB with the headlines.")
    return texts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="the csv file, or a folder that holds it")
    parser.add_argument("--query", action="append", help=f"as often as liked; else {QUERY!r}")
    parser.add_argument(
        "--encoder", default="wordllama", help=f"wordllama, tf-hub:{NNLM} or saved-model:FOLDER"
    )
    parser.add_argument("--project-to", type=int, help="width of a Gaussian random projection")
    parser.add_argument("--partitions", type=int, help="encode in so many Dask partitions")
    parser.add_argument(
        "--target", type=float, default=TARGET, help="share of the exact nearest to be found"
    )
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--n-probes", type=int, help="lists visited; else the index's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=Path, default=RESULTS / "headlines.index")
    parser.add_argument("--load", action="store_true", help="search --index, saved before")
    return parser


def _rows(path: Path, file: TextIO) -> Iterator[list[str]]:
    """The fields of each line. No row goes on in the next one, so a stray quote spoils but one."""
    try:
        for line in file:
            yield next(csv.reader([line]))
    except (csv.Error, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole csv file, got damage: {error}") from error


def _fault(row: list[str]) -> str | None:
    if len(row) != len(COLUMNS):
        return f"without {len(COLUMNS)} fields"
    date, text = row
    if not (len(date) == 8 and date.isascii() and date.isdigit()):
        return "without a date of eight digits"
    return None if text.strip() else "without a headline"


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    candidates = [folder / name for folder in (path, path / FOLDER) for name in FILES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{path}: expected a csv file or a folder with {' or '.join(FILES)}, got neither"
    )


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), "utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


PHRASES = (
    ("council", "police", "farmers", "minister", "union", "doctors", "swimmers", "rescue crews"),
    ("warn of", "welcome", "reject", "call for", "investigate", "prepare for"),
    ("flood damage", "a record harvest", "hospital funding", "bushfire smoke", "trade talks"),
    ("in perth", "in darwin", "in sydney", "in hobart", "in the outback", "on the coast"),
)


if __name__ == "__main__":
    main()
