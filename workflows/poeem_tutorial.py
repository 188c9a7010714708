"""The Poeem tutorial's task: train the towers jointly with their index and compare.

10,000 queries and as many items, known by number alone. A query ending in the digits xy wants the
items whose four digits hold an x and a y. One million pairs say so; towers are plain embeddings.

    python -m workflows.poeem_tutorial --seed 0
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import Schema, Tags
from numpy.typing import NDArray

from merlin_poeem import Candidates, IdLists
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    QuantizedTwoTowerModelV2,
    export_index,
    item_vectors,
    query_vectors,
)
from workflows.comparison import OURS, Comparison
from workflows.id_column import id_column
from workflows.results import show_and_save
from workflows.training import n_steps

VOCABULARY = 10_000
PAIRS = 1_000_000
DIM = 64
SOFTMAX_SCALE = 30
N_LISTS = 8
N_PROBES = (1, 2, 4, 8)
PQ_DIM = 8
K = 100
BATCH_SIZE = 128
EPOCHS = 3
# Six times the tutorial's: the exact model gains from three, the lists settle better at six.
LEARNING_RATE = 0.6
WARMUP = 0.35
# What a query wants is a cluster or two.
AGREEMENT = 0.5
# Items with two digits out of two that differ: 4·3/2 · 2²·8² + 4 · 2³·8 + 2⁴.
N_RIGHT = 1808
CURVE_STRIDE = 37
ITEMS = pd.DataFrame({"item": np.arange(VOCABULARY)})
QUERIES = pd.DataFrame({"query": np.arange(VOCABULARY)})


def make_pairs(seed: int, n_pairs: int = PAIRS) -> pd.DataFrame:
    """(query, item) int64 pairs, with the tutorial's draws in the tutorial's order."""
    np.random.seed(seed)
    query = np.random.randint(0, high=VOCABULARY, size=n_pairs)
    item = np.random.randint(0, high=VOCABULARY, size=n_pairs)
    digits = digits_of(item)
    order = np.random.rand(*digits.shape).argsort(axis=1)
    shuffled = np.take_along_axis(digits, order, axis=1)
    query = (query // 100) * 100 + shuffled[:, 0] * 10 + shuffled[:, 1]
    return pd.DataFrame({"query": query, "item": item})


def digits_of(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 4): the four decimal digits of each item, leading zeros included."""
    return np.stack([items // 1000 % 10, items // 100 % 10, items // 10 % 10, items % 10], axis=1)


def matches() -> NDArray[np.bool_]:
    """(100, items): whether an item is right for the queries that end in these two digits.

    The tutorial's test: at least two of the four digits are x or y.
    """
    digits = digits_of(np.arange(VOCABULARY))
    table = np.zeros((100, VOCABULARY), bool)
    for ending in range(100):
        x, y = divmod(ending, 10)
        table[ending] = ((digits == x) | (digits == y)).sum(axis=1) >= 2
    return table


def curve_queries(table: NDArray[np.bool_]) -> tuple[pd.DataFrame, IdLists]:
    """Some queries that end in two different digits, and the items right for each.

    Each has ``N_RIGHT`` of them, so that recall at ``N_RIGHT`` runs from 0 to 1.
    """
    endings = QUERIES["query"] % 100
    queries = QUERIES[endings // 10 != endings % 10][::CURVE_STRIDE]
    rows = [np.flatnonzero(table[query % 100]) for query in queries["query"]]
    return queries, IdLists.from_rows(rows)


def precision(found: Candidates, table: NDArray[np.bool_]) -> float:
    """precision@100 over all queries, in the tutorial's sense."""
    queries = np.repeat(np.arange(VOCABULARY), found.counts)
    return float(table[queries % 100, found.item_ids].sum() / (K * VOCABULARY))


def schema() -> Schema:
    """One user id and one item id, as a Merlin schema."""
    return Schema(
        [
            id_column("query", VOCABULARY, Tags.USER, Tags.USER_ID),
            id_column("item", VOCABULARY, Tags.ITEM, Tags.ITEM_ID),
        ]
    )


def embedding_tower(tag: Tags) -> mm.Encoder:
    """A tower that is one embedding table, with the tutorial's initial values."""
    columns = schema().select_by_tag(tag)
    start = tf.keras.initializers.TruncatedNormal(stddev=DIM**-0.5)
    tables = mm.Embeddings(columns, dim=DIM, embeddings_initializer=start)
    return mm.Encoder(mm.InputBlockV2(columns, categorical=tables))


def joint_model(quantizer: IVFPQQuantizer) -> mm.RetrievalModelV2:
    """The two towers with the index in them."""
    return QuantizedTwoTowerModelV2(
        embedding_tower(Tags.USER),
        embedding_tower(Tags.ITEM),
        quantizer,
        logits_temperature=1 / SOFTMAX_SCALE,
        schema=schema(),
    )


def plain_model() -> mm.RetrievalModelV2:
    """The same two towers without an index, as users of Merlin train them today."""
    towers = embedding_tower(Tags.USER), embedding_tower(Tags.ITEM)
    for tower in towers:
        tower.post = mm.L2Norm()
    return mm.TwoTowerModelV2(*towers, logits_temperature=1 / SOFTMAX_SCALE, schema=schema())


def compile_model(model: mm.RetrievalModelV2, batch_size: int) -> None:
    """The optimizer: Adagrad, as the tutorial's."""
    # The tutorial sums its loss over the batch, Merlin takes the mean: the accumulator starts from
    # what makes both the same.
    optimizer = tf.keras.optimizers.Adagrad(
        LEARNING_RATE, initial_accumulator_value=0.1 / batch_size**2, epsilon=1e-12
    )
    model.compile(optimizer=optimizer, run_eagerly=False, metrics=[])


def train(
    model: mm.RetrievalModelV2,
    pairs: pd.DataFrame,
    *,
    batch_size: int,
    epochs: int,
    initial_epoch: int = 0,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> None:
    """Train; shows Keras' progress bar."""
    compile_model(model, batch_size)
    model.fit(
        Dataset(pairs, schema=schema()),
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=list(callbacks),
    )


def new_quantizer(
    *, pq_dim: int = PQ_DIM, pq_bits: int = 8, seed: int = 0, **options: Any
) -> IVFPQQuantizer:
    """The tutorial's index; ``options`` are the quantizer's."""
    options = {"warmup": WARMUP, "agreement": AGREEMENT, **options}
    return IVFPQQuantizer(N_LISTS, pq_dim, pq_bits, metric="cosine", seed=seed, **options)


def compare(
    pairs: pd.DataFrame,
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
    epochs: int = EPOCHS,
    pq_bits: int = 8,
    with_plain: bool = True,
) -> Comparison:
    """Train, export, search: the rows of the demo's table."""
    tf.keras.utils.set_random_seed(seed)
    steps = n_steps(len(pairs), batch_size, epochs)
    quantizer = new_quantizer(pq_bits=pq_bits, seed=seed)
    print(f"Training the towers jointly with their index, {steps} steps.")
    model = joint_model(quantizer)
    train(model, pairs, batch_size=batch_size, epochs=epochs)
    comparison = comparison_of(model, seed)
    item_ids, vectors = item_vectors(model, ITEMS)
    start = time.perf_counter()
    index = export_index(model, ITEMS, n_probes=1)
    seconds = time.perf_counter() - start
    comparison.add_baselines(index.params, item_ids, vectors)
    comparison.add_index(OURS, index, seconds)
    if with_plain:
        print("Training the same towers without an index, to build one afterwards.")
        tf.keras.utils.set_random_seed(seed)
        plain = plain_model()
        train(plain, pairs, batch_size=batch_size, epochs=epochs)
        of_plain = comparison_of(plain, seed)
        of_plain.add_baselines(index.params, *item_vectors(plain, ITEMS), " (plain model)")
        comparison.rows.extend(of_plain.rows)
    return comparison


def comparison_of(model: mm.RetrievalModelV2, seed: int) -> Comparison:
    """A table without rows yet, for searches with all of the model's query vectors."""
    table = matches()
    _, queries = query_vectors(model, QUERIES)
    return Comparison(
        queries, K, N_PROBES, lambda found: {"precision_at_100": precision(found, table)}, seed
    )


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and of the training")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--pq-bits", type=int, default=8, choices=(4, 8))
    parser.add_argument(
        "--without-plain", action="store_true", help="train only the joint model, in half the time"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    comparison = compare(
        make_pairs(arguments.seed, arguments.pairs),
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        pq_bits=arguments.pq_bits,
        with_plain=not arguments.without_plain,
    )
    saved = arguments.results / "demo_tutorial"
    show_and_save(comparison, "precision_at_100", "Poeem tutorial: 10,000 items", saved)


if __name__ == "__main__":
    main()
