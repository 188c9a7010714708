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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.models.tf.transforms.bias import PopularityLogitsCorrection

from merlin_poeem import Candidates, IdLists, save_index
from merlin_poeem.arrays import Float32
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    QuantizedRecall,
    QuantizedTwoTowerModel,
    Temperature,
    export_index,
    item_vectors,
    query_vectors,
)
from merlin_poeem.evaluate import ndcg_at_k, recall_at_k
from workflows.comparison import OURS, Comparison
from workflows.movielens_data import FOLDERS, MovieLens, download, read
from workflows.movielens_features import Features, make_features
from workflows.plot import plot_quality

DIM = 64
TEMPERATURE = 0.15
LEARNING_RATE = 0.005
N_LISTS = 128
PQ_DIM = 8
N_PROBES = (1, 4, 8, 16, 32, 128)
DEFAULT_PROBES = 32
BATCH_SIZE = 1024
EPOCHS = 6
K = 20
SHOWN_USERS = 3
SHOWN_FILMS = ("Toy Story (1995)", "Alien (1979)", "Casablanca (1942)")
CACHE = Path("~/.cache/merlin_poeem")
REPOSITORY = Path(__file__).resolve().parents[1]


def tower() -> mm.MLPBlock:
    """The layers above a tower's embeddings."""
    return mm.MLPBlock([DIM], no_activation_last_layer=True)


def model_parts(features: Features) -> dict[str, object]:
    """What the joint and the plain model share: embedding tables and the task.

    Negatives are the other films of the batch, where popular ones come up more often: their logits
    are lowered by their log frequency (Yi et al., RecSys 2019).
    """
    correction = PopularityLogitsCorrection(features.item_frequencies, schema=features.schema)
    return {
        "embedding_options": mm.EmbeddingOptions(
            embedding_dims={"user": DIM, "item": DIM}, embedding_dim_default=16
        ),
        "prediction_tasks": mm.ItemRetrievalTask(
            features.schema, post_logits=Temperature(TEMPERATURE).connect(correction)
        ),
    }


def joint_model(features: Features, quantizer: IVFPQQuantizer) -> mm.RetrievalModel:
    """The two towers with the index in them."""
    return QuantizedTwoTowerModel(
        features.schema, tower(), quantizer, item_tower=tower(), **model_parts(features)
    )


def plain_model(features: Features) -> mm.RetrievalModel:
    """The same two towers without an index."""
    return mm.TwoTowerModel(
        features.schema,
        query_tower=tower().connect(mm.L2Norm()),
        item_tower=tower().connect(mm.L2Norm()),
        **model_parts(features),
    )


def train(
    model: mm.RetrievalModel,
    features: Features,
    *,
    batch_size: int,
    epochs: int,
    callbacks: tuple[tf.keras.callbacks.Callback, ...] = (),
) -> None:
    """Train with Adam, the learning rate falling to nothing; shows Keras' progress bar."""
    rate = tf.keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, n_steps(features, batch_size, epochs)
    )
    model.compile(optimizer=tf.keras.optimizers.Adam(rate), run_eagerly=False, metrics=[])
    dataset = Dataset(features.train, schema=features.schema)
    model.fit(dataset, batch_size=batch_size, epochs=epochs, callbacks=list(callbacks))


def n_steps(features: Features, batch_size: int, epochs: int) -> int:
    """Training steps in all."""
    return epochs * -(-len(features.train) // batch_size)


def new_quantizer(
    *, pq_dim: int = PQ_DIM, pq_bits: int = 8, seed: int = 0, **options: Any
) -> IVFPQQuantizer:
    """The films' index; ``options`` are the quantizer's."""
    return IVFPQQuantizer(N_LISTS, pq_dim, pq_bits, metric="cosine", seed=seed, **options)


@dataclass(frozen=True)
class Judged:
    """The users that the table is about: those with test ratings."""

    users: pd.DataFrame
    """(n, ...) rows with the query tower's columns and ``user_id``."""
    relevant: IdLists
    """Their test films."""
    seen: IdLists
    """Their training films, which are not recommended again."""

    @classmethod
    def of(cls, data: MovieLens, features: Features) -> Judged:
        """The users with test ratings."""
        users = features.users[features.users["user_id"].isin(data.test["user_id"])]
        lists = (_films_of(users, pairs) for pairs in (data.test, data.train))
        return cls(users.reset_index(drop=True), *lists)

    def quality(self, found: Candidates) -> dict[str, float]:
        """What a search for these users is worth."""
        return {
            "recall_at_20": recall_at_k(found, self.relevant, K),
            "ndcg_at_20": ndcg_at_k(found, self.relevant, K),
        }


def _films_of(users: pd.DataFrame, pairs: pd.DataFrame) -> IdLists:
    films = pairs.groupby("user_id")["item_id"].apply(np.array)
    return IdLists.from_rows([films.get(user_id) for user_id in users["user_id"]])


def run(
    data: MovieLens, *, seed: int, batch_size: int, epochs: int, results: Path, with_plain: bool
) -> Comparison:
    """Everything after reading: train, export, compare, save; returns the rows of the table."""
    print(f"{data.name}: {len(data.train):,} training and {len(data.test):,} test ratings.")
    features = make_features(data)
    judged = Judged.of(data, features)
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
    comparison = compare_baselines("", model, features, judged, seed)
    comparison.add_index(OURS, index, seconds)
    save_index(index, results / f"{data.name}.index")
    save_queries(comparison.queries, judged, results / f"{data.name}.queries.parquet")
    if with_plain:
        print("Training the same towers without an index, to build one afterwards.")
        tf.keras.utils.set_random_seed(seed)
        plain = plain_model(features)
        train(plain, features, batch_size=batch_size, epochs=epochs)
        rows = compare_baselines(" (plain model)", plain, features, judged, seed).rows
        comparison.rows.extend(rows)
    return comparison


def train_joint(
    features: Features,
    judged: Judged,
    *,
    seed: int,
    batch_size: int,
    epochs: int,
    sample_size: int | None = None,
) -> mm.RetrievalModel:
    """A trained joint model; each epoch shows what quantization costs.

    ``sample_size`` is the quantizer's.
    """
    tf.keras.utils.set_random_seed(seed)
    steps = n_steps(features, batch_size, epochs)
    quantizer = new_quantizer(seed=seed, sample_size=sample_size)
    recall = QuantizedRecall(
        judged.users,
        features.items,
        judged.relevant,
        k=K,
        n_probes=N_LISTS,
        exclude=judged.seen,
        item_id_column="item_id",
    )
    print(f"Training the towers jointly with their index, {steps} steps.")
    model = joint_model(features, quantizer)
    train(model, features, batch_size=batch_size, epochs=epochs, callbacks=(recall,))
    return model


def compare_baselines(
    suffix: str, model: mm.RetrievalModel, features: Features, judged: Judged, seed: int
) -> Comparison:
    """Exact search over the float vectors of a model, and what Faiss builds from them."""
    _, queries = query_vectors(model, judged.users)
    item_ids, vectors = item_vectors(model, features.items, id_column="item_id")
    comparison = Comparison(queries, K, N_PROBES, judged.quality, seed, judged.seen)
    factory = f"IVF{N_LISTS},PQ{PQ_DIM}"
    comparison.add_exact("exact" + suffix, item_ids, vectors)
    comparison.add_faiss("Faiss IVF-PQ" + suffix, factory, item_ids, vectors)
    comparison.add_faiss("Faiss OPQ+IVF-PQ" + suffix, f"OPQ{PQ_DIM},{factory}", item_ids, vectors)
    return comparison


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
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
    print(f"\n{comparison.table()}")
    saved = options.results / f"demo_movielens-{options.variant}"
    comparison.save(saved.with_suffix(".json"))
    title = f"{data.name}: {data.train['item_id'].nunique():,} films"
    plot_quality(comparison.rows, "recall_at_20", title, saved.with_suffix(".png"))
    print(f"Saved {saved}.json and {saved}.png")


if __name__ == "__main__":
    main()
