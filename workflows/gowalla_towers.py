"""Gowalla: two towers of users and places, trained jointly with their index.

The towers know users and places by number, and how popular a place is. Their embeddings start from
a singular value decomposition of the visits (see ``workflows.gowalla``), so that a few epochs are
enough.

    python -m workflows.gowalla_towers --data FOLDER
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.models.tf.core.aggregation import ConcatFeatures
from merlin.models.tf.transforms.bias import PopularityLogitsCorrection
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem import Candidates, IdLists, save_index
from merlin_poeem.arrays import Float32, Int64, normalize
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    LengthByPopularity,
    QuantizedTwoTowerModel,
    Temperature,
    export_index,
    item_vectors,
    query_vectors,
)
from merlin_poeem.evaluate import ndcg_at_k, recall_at_k
from workflows.comparison import OURS, Comparison
from workflows.gowalla import CheckIns, factorize, read
from workflows.plot import plot_quality

DIM = 128
TEMPERATURE = 0.1
# Of a loss that is a mean over the batch, of which a row of an embedding table has a small part.
LEARNING_RATE = 40.0
# Length of the embeddings at the start: the longer, the less a step turns them.
START_LENGTH = 0.8
# How much longer a place's vector is for each e-fold of visits. The direction of a place that few
# visited is little known: where all vectors are of one length, recall@20 is .175 and not .18.
LENGTH_BY_POPULARITY = 0.08
POPULARITY = ColumnSchema("item_popularity", dtype=np.float32, tags=[Tags.ITEM, Tags.CONTINUOUS])
BATCH_SIZE = 1024
EPOCHS = 8
N_LISTS = 1024
PQ_DIM = 8
N_PROBES = (1, 4, 16, 40, 100, 1024)
DEFAULT_PROBES = 40
K = 20


@dataclass(frozen=True)
class Task:
    """Visits to learn from and to find, and where the embeddings start."""

    check_ins: CheckIns
    users: pd.DataFrame
    """A row a user with visits to be found: ``user_id``."""
    items: pd.DataFrame
    """A row a place with training visits, the catalog: ``item_id``, ``item_popularity``."""
    training_pairs: pd.DataFrame
    """The training visits: ``user_id``, ``item_id``, ``item_popularity``."""
    starts: dict[str, Float32]
    """By column, (vocabulary, DIM) float32 first values of the embeddings."""
    item_frequencies: Int64
    """(vocabulary,) int64, training visits of each place."""

    @classmethod
    def of(cls, check_ins: CheckIns, seed: int = 0) -> Task:
        """Look at the visits; ``seed`` is of the decomposition.

        ``ValueError`` where users or places are fewer than ``DIM``.
        """
        train, test = check_ins.train, check_ins.test
        fewest = min(train["user_id"].nunique(), train["item_id"].nunique())
        if fewest < DIM:
            raise ValueError(f"check_ins: expected at least {DIM} users and places, got {fewest}")
        sizes = {c: 1 + int(max(train[c].max(), test[c].max())) for c in ("user_id", "item_id")}
        vectors = factorize(train, DIM, seed)
        frequencies = np.bincount(train["item_id"], minlength=sizes["item_id"])
        return cls(
            check_ins,
            pd.DataFrame({"user_id": np.unique(test["user_id"])}),
            _with_popularity(pd.DataFrame({"item_id": vectors.item_ids}), frequencies),
            _with_popularity(train, frequencies),
            {
                "user_id": _start(sizes["user_id"], vectors.user_ids, vectors.users),
                "item_id": _start(sizes["item_id"], vectors.item_ids, vectors.items),
            },
            frequencies,
        )

    @cached_property
    def schema(self) -> Schema:
        """One user id, one place id and its popularity, as a Merlin schema."""
        tags = {"user_id": [Tags.USER, Tags.USER_ID], "item_id": [Tags.ITEM, Tags.ITEM_ID]}
        ids = [
            ColumnSchema(
                name,
                dtype=np.int64,
                tags=[*tags[name], Tags.CATEGORICAL],
                properties={"domain": {"min": 0, "max": len(start) - 1, "name": name}},
            )
            for name, start in self.starts.items()
        ]
        return Schema([*ids, POPULARITY])

    @cached_property
    def relevant(self) -> IdLists:
        """The places to be found, a list for each of ``users``."""
        return self.check_ins.visits(self.users["user_id"].to_numpy(), self.check_ins.test)

    @cached_property
    def seen(self) -> IdLists:
        """The places known, a list for each of ``users``; they are not recommended again."""
        return self.check_ins.visits(self.users["user_id"].to_numpy(), self.check_ins.train)

    def quality(self, found: Candidates) -> dict[str, float]:
        """What a search for ``users`` is worth."""
        return {
            "recall_at_20": recall_at_k(found, self.relevant, K),
            "ndcg_at_20": ndcg_at_k(found, self.relevant, K),
        }


def _with_popularity(frame: pd.DataFrame, frequencies: Int64) -> pd.DataFrame:
    """``frame`` with the logarithm of each place's visits, less its mean over the catalog."""
    logarithms = np.log(np.maximum(frequencies, 1))
    centred = logarithms - logarithms[frequencies > 0].mean()
    return frame.assign(**{POPULARITY.name: centred[frame["item_id"]].astype(np.float32)})


def _start(size: int, ids: Int64, vectors: Float32) -> Float32:
    """(size, DIM) embeddings of one length in the directions of ``vectors``, else at random."""
    start = np.random.default_rng(0).normal(size=(size, DIM)).astype(np.float32)
    start[ids] = vectors
    return START_LENGTH * normalize(start)


def model_parts(task: Task) -> dict[str, Any]:
    """What the joint and the plain model share: embedding tables and the loss.

    Negatives are the other places of the batch, where popular ones come up more often: their logits
    are lowered by their log frequency (Yi et al., RecSys 2019).
    """
    correction = PopularityLogitsCorrection(task.item_frequencies, schema=task.schema)
    return {
        "embedding_options": mm.EmbeddingOptions(
            embedding_dims=dict.fromkeys(task.starts, DIM),
            embeddings_initializers={
                name: tf.keras.initializers.Constant(start) for name, start in task.starts.items()
            },
        ),
        "prediction_tasks": mm.ItemRetrievalTask(
            task.schema, post_logits=Temperature(TEMPERATURE).connect(correction)
        ),
    }


def query_tower() -> mm.SequentialBlock:
    """An embedding of length 1."""
    return mm.SequentialBlock([ConcatFeatures(), mm.L2Norm()])


def item_tower() -> mm.SequentialBlock:
    """An embedding whose length is a matter of popularity."""
    return mm.SequentialBlock(
        [LengthByPopularity(ConcatFeatures(), POPULARITY.name, LENGTH_BY_POPULARITY)]
    )


def joint_model(task: Task, quantizer: IVFPQQuantizer) -> mm.RetrievalModel:
    """The two towers with the index in them."""
    return QuantizedTwoTowerModel(
        task.schema, query_tower(), quantizer, item_tower=item_tower(), **model_parts(task)
    )


def plain_model(task: Task) -> mm.RetrievalModel:
    """The same two towers without an index."""
    return mm.TwoTowerModel(
        task.schema,
        query_tower=query_tower(),
        item_tower=item_tower(),
        **model_parts(task),
    )


def new_quantizer(
    *, pq_dim: int = PQ_DIM, pq_bits: int = 8, seed: int = 0, **options: Any
) -> IVFPQQuantizer:
    """The places' index; ``options`` are the quantizer's."""
    return IVFPQQuantizer(N_LISTS, pq_dim, pq_bits, metric="inner_product", seed=seed, **options)


def train(
    model: mm.RetrievalModel, task: Task, *, batch_size: int = BATCH_SIZE, epochs: int = EPOCHS
) -> None:
    """Train with gradient descent, the learning rate falling to nothing; shows a progress bar."""
    rate = tf.keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, n_steps(task, batch_size, epochs)
    )
    # Adagrad and Adam learn rare users and places by heart: recall@20 of .172 in the place of .181.
    model.compile(optimizer=tf.keras.optimizers.SGD(rate), run_eagerly=False, metrics=[])
    dataset = Dataset(task.training_pairs[task.schema.column_names], schema=task.schema)
    model.fit(dataset, batch_size=batch_size, epochs=epochs)


def n_steps(task: Task, batch_size: int = BATCH_SIZE, epochs: int = EPOCHS) -> int:
    """Training steps in all."""
    return epochs * -(-len(task.training_pairs) // batch_size)


def run(
    task: Task, *, seed: int, epochs: int, batch_size: int = BATCH_SIZE, results: Path
) -> Comparison:
    """Train, export, compare, save; returns the rows of the table."""
    tf.keras.utils.set_random_seed(seed)
    steps = n_steps(task, batch_size, epochs)
    print(f"Training the towers jointly with their index, {steps} steps.")
    model = joint_model(task, new_quantizer(seed=seed))
    train(model, task, batch_size=batch_size, epochs=epochs)
    start = time.perf_counter()
    index = export_index(model, task.items, n_probes=DEFAULT_PROBES, info={"seed": seed})
    seconds = time.perf_counter() - start
    _, queries = query_vectors(model, task.users)
    comparison = Comparison(queries, K, N_PROBES, task.quality, seed, task.seen)
    item_ids, vectors = item_vectors(model, task.items)
    factory = f"IVF{N_LISTS},PQ{PQ_DIM}"
    comparison.add_exact("exact", item_ids, vectors)
    comparison.add_faiss("Faiss IVF-PQ", factory, item_ids, vectors)
    comparison.add_faiss("Faiss OPQ+IVF-PQ", f"OPQ{PQ_DIM},{factory}", item_ids, vectors)
    comparison.add_index(OURS, index, seconds)
    save_index(index, results / "gowalla.index")
    return comparison


def main(arguments: list[str] | None = None) -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of train.txt.gz and test.txt.gz"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    try:
        check_ins = read(options.data)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    options.results.mkdir(parents=True, exist_ok=True)
    comparison = run(
        Task.of(check_ins, options.seed),
        seed=options.seed,
        epochs=options.epochs,
        results=options.results,
    )
    print(f"\n{comparison.table()}")
    saved = options.results / "demo_gowalla"
    comparison.save(saved.with_suffix(".json"))
    plot_quality(
        comparison.rows, "recall_at_20", "Gowalla: 40,981 places", saved.with_suffix(".png")
    )
    print(f"Saved {saved}.json and {saved}.png")


if __name__ == "__main__":
    main()
