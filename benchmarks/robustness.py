"""Does joint training collapse? Short trainings over a covering design of settings, as a table.

    python -m benchmarks.robustness [--quick] [--results results]

Each pair of values of two factors is in one training at least; the hardest corners come on top.
The task has structure to learn: items lie in clusters, a user wants two of the clusters. Embedding
tables start near the planted vectors, so that few steps show what long trainings run into.
A training that has been run is not run again: its row is in the JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from merlin_poeem import Index
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.blocks import IVFPQQuantizer
from merlin_poeem.evaluate import exact_search, list_balance, recall_at_k
from merlin_poeem.search.ragged import IdLists
from merlin_poeem.search.searcher import open_searcher

N_USERS = 4096
N_NEGATIVES = 512
ITEMS_A_CLUSTER = 16
PQ_DIM = 8
AGREEMENT = 0.5
K = 20
LOOKS = 4
TEMPERATURE = 0.1
STEPS = {256: 800, 2048: 160, 16384: 32}
LEARNING_RATES = {"adam": 0.005, "adagrad": 0.1, "sgd": 0.5}


@dataclass(frozen=True)
class Setting:
    """One training; the defaults are what the corners are around."""

    dim: int = 64
    n_lists: int = 64
    pq_bits: int = 8
    batch_size: int = 2048
    optimizer: str = "adam"
    precision: str = "float32"
    metric: str = "inner_product"
    popularity: str = "even"
    """``zipf``: the i-th item is wanted 1/i as often as the first."""
    faster: float = 1.0
    """Times the usual learning rate."""


FACTORS = {
    "dim": (16, 64, 256),
    "n_lists": (8, 64, 512, 4096),
    "pq_bits": (4, 8),
    "batch_size": (256, 2048, 16384),
    "optimizer": ("adam", "adagrad", "sgd"),
    "precision": ("float32", "mixed_float16"),
    "metric": ("inner_product", "cosine"),
    "popularity": ("even", "zipf"),
}

CORNERS = (
    Setting(faster=10),
    Setting(faster=100),
    Setting(optimizer="sgd", faster=10),
    Setting(optimizer="adagrad", faster=10, metric="cosine", popularity="zipf"),
    Setting(batch_size=256, n_lists=512, faster=10, popularity="zipf"),
    Setting(dim=16, n_lists=512, batch_size=16384, popularity="zipf"),
    Setting(dim=256, n_lists=8, pq_bits=4, precision="mixed_float16", faster=10),
)


def covering_design() -> list[Setting]:
    """Settings such that each two values of two factors meet; greedy, the same at each call."""
    names = list(FACTORS)
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in FACTORS[a]
        for y in FACTORS[b]
    }
    rng = np.random.default_rng(0)
    design = []
    while missing:
        drawn = [{name: FACTORS[name] for name in names} for _ in range(200)]
        rows = [{n: v[rng.integers(len(v))] for n, v in choices.items()} for choices in drawn]
        # The largest trainings cost most: of rows that cover as much, one with fewer lists.
        row = max(rows, key=lambda row: (len(_pairs(row) & missing), -row["n_lists"]))
        if not _pairs(row) & missing:
            continue
        missing -= _pairs(row)
        design.append(Setting(**row))
    return design


def _pairs(row: dict[str, object]) -> set[tuple[tuple[str, object], tuple[str, object]]]:
    return set(itertools.combinations(row.items(), 2))


class Task:
    """Planted users and items, and pairs of a user and an item it wants."""

    def __init__(self, n_items: int, dim: int, popularity: str, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        n_clusters = n_items // ITEMS_A_CLUSTER
        centres = _normal(self.rng, n_clusters, dim)
        self.cluster_of_item = np.arange(n_items) % n_clusters
        self.clusters_of_user = self.rng.integers(n_clusters, size=(N_USERS, 2))
        self.items = centres[self.cluster_of_item] + _normal(self.rng, n_items, dim)
        self.users = centres[self.clusters_of_user].sum(axis=1) + _normal(self.rng, N_USERS, dim)
        self.n_clusters = n_clusters
        wanted = self.clusters_of_user.reshape(-1)
        self.wanting = np.argsort(wanted, kind="stable") // 2
        bounds = np.searchsorted(np.sort(wanted), np.arange(n_clusters + 1))
        self.first_wanting, self.n_wanting = bounds[:-1], np.diff(bounds)
        weights = 1 / np.arange(1, n_items + 1) if popularity == "zipf" else np.ones(n_items)
        self.cumulative_popularity = np.cumsum(weights) / weights.sum()

    def batches(self, batch_size: int, steps: int) -> Iterator[tuple[Int64, Int64]]:
        """``steps`` batches of users and wanted items."""
        for _ in range(steps):
            items = np.searchsorted(self.cumulative_popularity, self.rng.random(batch_size))
            items = np.minimum(items, len(self.items) - 1)
            yield self._users_of(items), items

    def _users_of(self, items: Int64) -> Int64:
        """A user that wants the item's cluster; where nobody does, one at random."""
        clusters = self.cluster_of_item[items]
        n_wanting = self.n_wanting[clusters]
        at = self.first_wanting[clusters] + self.rng.integers(np.maximum(n_wanting, 1))
        anybody = self.rng.integers(N_USERS, size=len(items))
        return np.where(n_wanting > 0, self.wanting[np.minimum(at, 2 * N_USERS - 1)], anybody)

    def relevant(self, users: Int64) -> IdLists:
        """Per user, the items of its two clusters."""
        offsets = self.n_clusters * np.arange(ITEMS_A_CLUSTER)
        return IdLists.from_rows(
            [np.unique(clusters[:, None] + offsets) for clusters in self.clusters_of_user[users]]
        )


def _normal(rng: np.random.Generator, n: int, dim: int) -> Float32:
    """(n, dim) of mean length 1."""
    return (rng.standard_normal((n, dim)) / np.sqrt(dim)).astype(np.float32)


class TwoTowers(tf.keras.Model):
    """Two embedding tables, the quantizer behind the second, and a softmax over sampled items."""

    def __init__(self, task: Task, quantizer: IVFPQQuantizer) -> None:
        super().__init__()
        self.users, self.items = _table(task.users), _table(task.items)
        self.quantizer = quantizer

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        """(batch,) losses of users and the items they want; the others' items are the negatives."""
        users, items = inputs
        vectors = self.quantizer(self.items(items), training=training)
        queries = tf.cast(self.users(users), tf.float32)
        if self.quantizer.params.metric == "cosine":
            queries = tf.math.l2_normalize(queries, 1)
        if training:
            agreement = self.quantizer.disagreement(queries, vectors)
            self.add_loss(self.quantizer.agreement * agreement)
        negatives = tf.matmul(queries, vectors[:N_NEGATIVES], transpose_b=True)
        is_wanted = items[:, None] == items[None, :N_NEGATIVES]
        negatives = tf.where(is_wanted, negatives.dtype.min, negatives / TEMPERATURE)
        positives = tf.reduce_sum(queries * vectors, axis=1, keepdims=True) / TEMPERATURE
        logits = tf.concat([positives, negatives], axis=1)
        return tf.reduce_logsumexp(logits, axis=1) - positives[:, 0]


def _table(vectors: Float32) -> tf.keras.layers.Embedding:
    start = tf.keras.initializers.Constant(vectors)
    return tf.keras.layers.Embedding(*vectors.shape, embeddings_initializer=start)


def n_items_of(setting: Setting) -> int:
    """32 a list, and 32 a codeword."""
    return 32 * max(setting.n_lists, 256)


def train(setting: Setting, task: Task) -> tuple[TwoTowers, str]:
    """A trained model, and the error that stopped the training, if one did."""
    tf.keras.mixed_precision.set_global_policy(setting.precision)
    quantizer = IVFPQQuantizer(
        setting.n_lists,
        PQ_DIM,
        setting.pq_bits,
        metric=setting.metric,
        warmup=0,
        agreement=AGREEMENT,
        rotation_interval=STEPS[setting.batch_size] // LOOKS,
    )
    # The start has to wait for its sample.
    steps = -(-quantizer.sample_size // setting.batch_size) + STEPS[setting.batch_size]
    model = TwoTowers(task, quantizer)
    model.compile(_optimizer(setting), loss=lambda _, losses: tf.reduce_mean(losses))
    spec = tf.TensorSpec([setting.batch_size], tf.int64)
    data = tf.data.Dataset.from_generator(
        lambda: ((batch, batch[0]) for batch in task.batches(setting.batch_size, steps)),
        output_signature=((spec, spec), spec),
    )
    try:
        model.fit(data, verbose=0)
    except tf.errors.InvalidArgumentError as error:
        return model, error.message
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    return model, ""


def _optimizer(setting: Setting) -> tf.keras.optimizers.Optimizer:
    rate = setting.faster * LEARNING_RATES[setting.optimizer]
    if setting.optimizer == "sgd":
        return tf.keras.optimizers.SGD(rate)
    if setting.optimizer == "adagrad":
        # As if the loss were the batch's sum, as in workflows/poeem_tutorial.py.
        start = 0.1 / setting.batch_size**2
        return tf.keras.optimizers.Adagrad(rate, initial_accumulator_value=start, epsilon=1e-12)
    return tf.keras.optimizers.Adam(rate)


def run(setting: Setting) -> dict[str, object]:
    """Train, export, search: a row of the table."""
    began = time.perf_counter()
    task = Task(n_items_of(setting), setting.dim, setting.popularity)
    model, error = train(setting, task)
    row: dict[str, object] = {**asdict(setting), "error": error}
    if bool(model.quantizer.is_started.numpy()):
        health = model.quantizer.health()
        row |= asdict(health)
        row["problems"] = health.problems()
        if not error:
            row |= _of_index(model, task)
    return {**row, "seconds": time.perf_counter() - began}


def _of_index(model: TwoTowers, task: Task) -> dict[str, object]:
    """What the index of all items looks like, and finds."""
    params = model.quantizer.params
    item_ids, users = np.arange(len(task.items)), np.arange(0, N_USERS, 4)
    vectors, queries = _vectors_of(model.items, item_ids), _vectors_of(model.users, users)
    index = Index.from_vectors(params, model.quantizer.quantization(), item_ids, vectors)
    exact = exact_search(item_ids, vectors, queries, k=K, metric=params.metric)
    found = open_searcher(index).search(queries, k=K, n_probes=max(1, params.n_lists // 8))
    relevant = task.relevant(users)
    n_used = [len(np.unique(column)) for column in index.codes.T]
    return {
        "empty_lists": float(np.mean(index.list_sizes == 0)),
        "unused_codewords": 1 - float(np.mean(n_used)) / params.pq_book_size,
        "largest_list": list_balance(index).max_over_mean,
        "exact_recall": recall_at_k(exact, relevant, K),
        "quantized_recall": recall_at_k(found, relevant, K),
    }


def _vectors_of(table: tf.keras.layers.Embedding, ids: Int64) -> Float32:
    return table(ids).numpy().astype(np.float32)


def table_of(rows: list[dict[str, object]]) -> str:
    """A line a training."""
    return pd.DataFrame(rows).drop(columns="error").to_string(float_format="{:.3f}".format)


def main() -> None:
    """Run from the command line; saves after every training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few lists and small batches only")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    settings = sorted([*covering_design(), *CORNERS], key=lambda setting: setting.n_lists)
    if arguments.quick:
        settings = [s for s in settings if s.n_lists <= 64 and s.batch_size <= 2048]
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "robustness.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {tuple(row[field.name] for field in fields(Setting)) for row in rows}
    for number, setting in enumerate(settings, 1):
        if astuple(setting) in done:
            continue
        print(f"{number} of {len(settings)}: {setting}", flush=True)
        rows.append(run(setting))
        path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
        tf.keras.backend.clear_session()
    print(table_of(rows))


if __name__ == "__main__":
    main()
