"""Ready-made embeddings of MovieLens: csv files of ids and JSON vectors, indexed and searched.

The files stand for those that any other tool leaves behind; here a truncated SVD makes them. User →
films, user → users, film → films, with titles, and a table beside raw Faiss.

    python -m workflows.ready_made --variant 1m --data FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from merlin_poeem import Candidates, Index, open_searcher, search_frame, suggest_params
from merlin_poeem.evaluate import agreement, exact_search, recall_at_k
from merlin_poeem.frames.columns import read_vectors
from merlin_poeem.frames.items import like_rows, with_items
from merlin_poeem.frames.ready_made import index_frame, with_vectors
from workflows.comparison import OURS, Comparison
from workflows.judged import items_of
from workflows.movielens.data import FOLDERS, MovieLens, read
from workflows.movielens.download import CACHE, download

DIM = 10
K = 20
N_PROBES = (1, 2, 4, 8, 16, 32, 64)
SHOWN_USER = 10
SHOWN_FILM = 1
N_GENRES = 10
N_SEEN = 25
TASTE = 30


def factorise(data: MovieLens, dim: int = DIM, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(users, films) with training ratings: their ids and ``embedding``, a JSON array of ``dim``.

    The inner product of a user and a film approximates whether one rated the other.
    """
    users, user_rows = np.unique(data.train["user_id"], return_inverse=True)
    films, film_columns = np.unique(data.train["item_id"], return_inverse=True)
    ones = np.ones(len(data.train), np.float32)
    rated = csr_matrix((ones, (user_rows, film_columns)), (len(users), len(films)))
    model = TruncatedSVD(dim, random_state=seed)
    user_vectors = model.fit_transform(rated)
    return (
        pd.DataFrame({"user_id": users, "embedding": _as_json(user_vectors)}),
        pd.DataFrame({"item_id": films, "embedding": _as_json(model.components_.T)}),
    )


def simulate(n_users: int = 400, n_films: int = 300, seed: int = 0) -> MovieLens:
    """A stand-in where MovieLens is absent: users who mostly see films of one of ten genres."""
    rng = np.random.default_rng(seed)
    genre = np.arange(n_films) % N_GENRES
    weights = 1 / np.arange(1, n_films + 1) ** 0.5
    seen = []
    for user in range(n_users):
        chance = weights * np.where(genre == user % N_GENRES, TASTE, 1)
        seen.append(rng.choice(n_films, N_SEEN, replace=False, p=chance / chance.sum()))
    pairs = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(1, n_users + 1), N_SEEN),
            "item_id": np.concatenate(seen) + 1,
        }
    )
    test = np.arange(len(pairs)) % 5 == 0
    films = pd.DataFrame(
        {
            "item_id": np.arange(1, n_films + 1),
            "title": [f"Film {i} of genre {g}" for i, g in enumerate(genre, 1)],
            "year": 2000,
            "genres": [[f"genre {g}"] for g in genre],
        }
    )
    users = pd.DataFrame({"user_id": np.arange(1, n_users + 1)})
    return MovieLens("simulated", pairs[~test], pairs[test], users, films)


def write(users: pd.DataFrame, films: pd.DataFrame, folder: Path) -> tuple[Path, Path]:
    """Write ``user_embedding.csv`` and ``item_embedding.csv``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "user_embedding.csv", folder / "item_embedding.csv"
    for frame, path in zip((users, films), paths, strict=True):
        frame.to_csv(path, index=False)
    return paths


def index_films(films: pd.DataFrame, described: pd.DataFrame, **options: Any) -> Index:
    """An index of ``films`` (``item_id, embedding``) that holds titles and genres."""
    known = described[["item_id", "title", "genres"]]
    joined = films.merge(known, on="item_id", how="left")
    return index_frame(joined, item_table=["title", "genres"], **options)


def compare(users: pd.DataFrame, films: pd.DataFrame, data: MovieLens, seed: int) -> Comparison:
    """Exact search, raw Faiss and our index, the latter two of the same shape.

    ``agreement`` is with exact search, ``recall_at_20`` with the users' test films; training films
    are not shown again.
    """
    judged = users[users["user_id"].isin(data.test["user_id"])]
    queries, vectors = read_vectors(judged, "embedding"), read_vectors(films, "embedding")
    item_ids = films["item_id"].to_numpy()
    relevant, seen = (items_of(judged["user_id"], pairs) for pairs in (data.test, data.train))
    exact = exact_search(item_ids, vectors, queries, k=K, exclude=seen)

    def quality(found: Candidates) -> dict[str, float]:
        return {
            "recall_at_20": recall_at_k(found, relevant, K),
            "agreement": agreement(found, exact, K),
        }

    comparison = Comparison(queries, K, N_PROBES, quality, seed, exclude=seen)
    comparison.add_exact("exact", item_ids, vectors)
    params = suggest_params(*vectors.shape)
    factory = f"IVF{params.n_lists},PQ{params.pq_dim}"
    comparison.add_faiss("Faiss IVF-PQ", factory, item_ids, vectors)
    start = time.perf_counter()
    index = index_frame(films, params, seed=seed)
    comparison.add_index(OURS, index, time.perf_counter() - start)
    return comparison


def show(users: pd.DataFrame, films: pd.DataFrame, data: MovieLens, user_id: int) -> str:
    """What one user may like, who is like them, and films like :data:`SHOWN_FILM`."""
    titled = index_films(films, data.items)
    one = with_vectors(users[users["user_id"] == user_id])
    one["seen"] = items_of(one["user_id"], data.train).row(0).reshape(1, -1).tolist()
    searcher = open_searcher(titled)
    liked = search_frame(searcher, one, k=K, query_id="user_id", exclude="seen")
    # Of vectors whose length is popularity or zeal, the direction tells what is alike.
    alike = open_searcher(index_frame(users, item_id="user_id", metric="cosine"))
    neighbours = like_rows(alike, one, k=K, row_id="user_id")
    film = with_vectors(films[films["item_id"] == SHOWN_FILM])
    similar = like_rows(open_searcher(index_films(films, data.items, metric="cosine")), film, k=K)
    return "\n\n".join(
        [
            f"For user {user_id}:\n{_lines(with_items(liked, titled))}",
            f"Like user {user_id}: {neighbours['item_id'].tolist()}",
            f"Like film {SHOWN_FILM}:\n{_lines(with_items(similar, titled))}",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Write the files, read them back, index and compare."""
    options = _parser().parse_args(arguments)
    try:
        folder = options.data or download(options.variant, CACHE.expanduser())
        data = read(folder, options.variant)
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    paths = write(*factorise(data, options.dim, options.seed), options.results)
    users, films = (pd.read_csv(path) for path in paths)
    print(f"{paths[0]}: {len(users):,} users, {paths[1]}: {len(films):,} films.")
    print(show(users, films, data, SHOWN_USER))
    comparison = compare(users, films, data, options.seed)
    print(f"\n{comparison.table()}")
    comparison.save(options.results / f"ready_made-{data.name}.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", choices=FOLDERS, default="1m")
    parser.add_argument("--data", type=Path, help="folder of the files; else they are downloaded")
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results"))
    return parser


def _as_json(vectors: np.ndarray) -> list[str]:
    return [json.dumps(row) for row in vectors.astype(np.float32).tolist()]


def _lines(found: pd.DataFrame) -> str:
    return "\n".join(f"  {row.rank:2d}. {row.title}  {row.score:.3f}" for row in found.itertuples())


if __name__ == "__main__":
    main()
