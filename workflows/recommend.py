"""Search a saved index and print titles: the right half alone, without TensorFlow.

    python -m workflows.recommend --index results/movielens-1m.index \\
        --queries results/movielens-1m.queries.parquet --similar-to "Toy Story (1995)"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from merlin_poeem import Index, Searcher, load_index, open_searcher, search_frame
from merlin_poeem.frames import items


def for_users(searcher: Searcher, users: pd.DataFrame, k: int) -> pd.DataFrame:
    """``user_id, rank, item_id, score`` and the item table's columns: what each user may like.

    ``users`` holds ``user_id``, ``embedding`` (the query tower's output) and ``seen`` (ids of items
    that are not recommended again).
    """
    found = search_frame(searcher, users, k=k, query_id="user_id", exclude="seen")
    return items.with_items(found, searcher.index)


def like_items(searcher: Searcher, titles: list[str], k: int) -> pd.DataFrame:
    """``like, rank, item_id, score`` and the item table's columns: the nearest items of each title.

    ``ValueError`` on titles that the item table does not hold.
    """
    known = _table(searcher.index).drop_duplicates("title").set_index("title")["item_id"]
    unknown = [title for title in titles if title not in known.index]
    if unknown:
        raise ValueError(f"titles: expected titles of the item table, got {unknown}")
    item_ids = known[titles].to_numpy()
    found = items.like_items(searcher, item_ids, k=k)
    found["like"] = found["like"].map(dict(zip(item_ids, titles, strict=True)))
    return items.with_items(found, searcher.index)


def show(found: pd.DataFrame, by: str, heading: str) -> str:
    """The titles found, a paragraph a value of ``by``."""
    lines = []
    for value, rows in found.groupby(by, sort=False):
        lines.append(f"\n{heading} {value}")
        lines += [
            f"  {row.rank:2d}. {row.title}  [{', '.join(row.genres)}]  {row.score:.3f}"
            for row in rows.itertuples()
        ]
    return "\n".join(lines)


def _table(index: Index) -> pd.DataFrame:
    if index.item_table is None or "title" not in index.item_table:
        raise ValueError("index: expected an item table with titles, got none")
    return index.item_table


def main() -> None:
    """Print recommendations from files alone."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--index", type=Path, required=True, help="a saved index with titles")
    parser.add_argument("--queries", type=Path, help="parquet: user_id, embedding, seen")
    parser.add_argument("--similar-to", action="append", default=[], metavar="TITLE")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--n-probes", type=int, help="lists visited; else the index's own number")
    parser.add_argument(
        "--refine", type=int, help="times k items are looked at again by their vectors"
    )
    arguments = parser.parse_args()
    index = load_index(arguments.index)
    _table(index)
    if arguments.n_probes is not None:
        index = index.with_n_probes(arguments.n_probes)
    if arguments.refine is not None:
        index = index.with_refine(arguments.refine)
    searcher = open_searcher(index)
    print(f"{index}, searched with {searcher.backend}")
    if arguments.queries is not None:
        users = pd.read_parquet(arguments.queries)
        print(show(for_users(searcher, users, arguments.k), "user_id", "For user"))
    if arguments.similar_to:
        print(show(like_items(searcher, arguments.similar_to, arguments.k), "like", "Like"))
    if "tensorflow" in sys.modules:
        raise RuntimeError("expected a process without TensorFlow, got one that has loaded it")
    print("\nThis process has not loaded TensorFlow.")


if __name__ == "__main__":
    main()
