"""MovieLens: train two towers jointly with their index, compare, and recommend films by title.

Ratings, users and films go through an NVTabular workflow into Merlin's ``TwoTowerModel``; the index
that it learns is saved and searched by another process, without TensorFlow.

    python -m workflows.movielens --variant 1m --data FOLDER
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from pathlib import Path

import merlin.models.tf as mm
import tensorflow as tf

from merlin_poeem import save_index
from merlin_poeem.arrays import Float32
from merlin_poeem.blocks import export_index, item_vectors, query_vectors
from workflows.comparison import OURS, Comparison
from workflows.judged import Judged
from workflows.movielens.data import FOLDERS, MovieLens, read
from workflows.movielens.download import CACHE, download
from workflows.movielens.features import make_features
from workflows.movielens.towers import (
    BATCH_SIZE,
    DEFAULT_PROBES,
    EPOCHS,
    N_PROBES,
    SHOWN_USERS,
    K,
    plain_model,
    train,
    train_joint,
)
from workflows.results import show_and_save

SHOWN_FILMS = ("Toy Story (1995)", "Alien (1979)", "Casablanca (1942)")
REPOSITORY = Path(__file__).resolve().parents[2]


def run(
    data: MovieLens, *, seed: int, batch_size: int, epochs: int, results: Path, with_plain: bool
) -> Comparison:
    """Everything after reading: train, export, compare, save; returns the rows of the table."""
    print(f"{data.name}: {len(data.train):,} training and {len(data.test):,} test ratings.")
    features = make_features(data)
    judged = Judged.of(features.users, data.train, data.test, K)
    model = train_joint(features, judged, seed=seed, batch_size=batch_size, epochs=epochs)
    start = time.perf_counter()
    index = export_index(
        model,
        features.items,
        id_column="item_id",
        n_probes=DEFAULT_PROBES,
        item_table=data.items[data.items["item_id"].isin(features.items["item_id"])],
        info={"dataset": data.name, "seed": seed, "epochs": epochs, "batch_size": batch_size},
    )
    seconds = time.perf_counter() - start
    comparison = comparison_of(model, judged, seed)
    vectors = item_vectors(model, features.items, id_column="item_id")
    comparison.add_baselines(index.params, *vectors)
    comparison.add_index(OURS, index, seconds)
    save_index(index, results / f"{data.name}.index")
    save_queries(comparison.queries, judged, results / f"{data.name}.queries.parquet")
    if with_plain:
        print("Training the same towers without an index, to build one afterwards.")
        tf.keras.utils.set_random_seed(seed)
        plain = plain_model(features)
        train(plain, features, batch_size=batch_size, epochs=epochs)
        of_plain = comparison_of(plain, judged, seed)
        vectors = item_vectors(plain, features.items, id_column="item_id")
        of_plain.add_baselines(index.params, *vectors, " (plain model)")
        comparison.rows.extend(of_plain.rows)
    return comparison


def comparison_of(model: mm.RetrievalModel, judged: Judged, seed: int) -> Comparison:
    """A table without rows yet, for searches with the model's query vectors."""
    _, queries = query_vectors(model, judged.users)
    return Comparison(queries, K, N_PROBES, judged.quality, seed, judged.seen)


def save_queries(vectors: Float32, judged: Judged, path: Path) -> None:
    """A few users' query vectors and seen films, as ``workflows.recommend`` reads them."""
    users = judged.users[:SHOWN_USERS]
    seen = [judged.seen.row(i) for i in range(len(users))]
    frame = users[["user_id"]].assign(embedding=list(vectors[: len(users)]), seen=seen)
    frame.to_parquet(path)


def recommend(results: Path, data: MovieLens) -> None:
    """Print recommendations from the saved files, in another process without TensorFlow."""
    known = data.items["title"][data.items["item_id"].isin(data.train["item_id"])].tolist()
    titles = [title for title in SHOWN_FILMS if title in known] or known[:1]
    command = [sys.executable, "-m", "workflows.recommend"]
    command += ["--index", results.resolve() / f"{data.name}.index"]
    command += ["--queries", results.resolve() / f"{data.name}.queries.parquet"]
    for title in titles:
        command += ["--similar-to", title]
    print("\nRecommendations, by a process of its own from the saved index:", flush=True)
    subprocess.run(command, check=True, cwd=REPOSITORY)


def main(arguments: list[str] | None = None) -> None:
    """Run the demo from the command line."""
    description = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser("python -m workflows.movielens", description=description)
    parser.add_argument("--variant", choices=sorted(FOLDERS), default="1m")
    parser.add_argument("--data", type=Path, help="folder of files as published, else downloaded")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where downloads are kept")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the training")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument(
        "--with-plain", action="store_true", help="train the same towers without an index too"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    try:
        folder = options.data or download(options.variant, options.cache.expanduser())
        data = read(folder, options.variant, options.seed)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    options.results.mkdir(parents=True, exist_ok=True)
    comparison = run(
        data,
        seed=options.seed,
        batch_size=options.batch_size,
        epochs=options.epochs,
        results=options.results,
        with_plain=options.with_plain,
    )
    recommend(options.results, data)
    print()
    title = f"{data.name}: {data.train['item_id'].nunique():,} films"
    saved = options.results / f"demo_movielens-{options.variant}"
    show_and_save(comparison, "recall_at_20", title, saved)


if __name__ == "__main__":
    main()
