"""Two towers of users and places, trained jointly with their index or, to compare, without one.

The towers know users and places by number, and how popular a place is. Their embeddings start from
a singular value decomposition of the visits (see ``vectors``), so that a few epochs are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.models.tf.core.aggregation import ConcatFeatures
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.arrays import Float32, Int64, normalize
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    LengthByPopularity,
    QuantizedTwoTowerModel,
    settle_codebook,
)
from workflows.gowalla.data import CheckIns
from workflows.gowalla.vectors import factorize
from workflows.id_column import id_column
from workflows.judged import Judged
from workflows.training import fit, retrieval_task

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
# Chosen by the recall@20 of training visits, .640 as trained and .647 settled (seed 0).
SETTLING_ROUNDS = 16
PQ_DIM = 8
N_PROBES = (1, 4, 16, 40, 100, 1024)
DEFAULT_PROBES = 40
K = 20


@dataclass(frozen=True)
class Task:
    """Visits to learn from and to find, and where the embeddings start."""

    judged: Judged
    """The users with visits to be found, known by ``user_id`` alone."""
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
        users = pd.DataFrame({"user_id": np.unique(test["user_id"])})
        return cls(
            Judged.of(users, train, test, K),
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
        n_users, n_items = len(self.starts["user_id"]), len(self.starts["item_id"])
        return Schema(
            [
                id_column("user_id", n_users, Tags.USER, Tags.USER_ID),
                id_column("item_id", n_items, Tags.ITEM, Tags.ITEM_ID),
                POPULARITY,
            ]
        )


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
    """What the joint and the plain model share: embedding tables and the loss."""
    return {
        "embedding_options": mm.EmbeddingOptions(
            embedding_dims=dict.fromkeys(task.starts, DIM),
            embeddings_initializers={
                name: tf.keras.initializers.Constant(start) for name, start in task.starts.items()
            },
        ),
        "prediction_tasks": retrieval_task(task.schema, task.item_frequencies, TEMPERATURE),
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


def settle(model: mm.RetrievalModel, task: Task) -> None:
    """Move a joint model's codewords to where they fit the places best, often visited ones most."""
    settle_codebook(model, task.items, frequencies=task.item_frequencies, rounds=SETTLING_ROUNDS)


def new_quantizer(
    *, pq_dim: int = PQ_DIM, pq_bits: int = 8, seed: int = 0, **options: Any
) -> IVFPQQuantizer:
    """The places' index; ``options`` are the quantizer's."""
    return IVFPQQuantizer(N_LISTS, pq_dim, pq_bits, metric="inner_product", seed=seed, **options)


def train(
    model: mm.RetrievalModel,
    task: Task,
    *,
    batch_size: int = BATCH_SIZE,
    epochs: int = EPOCHS,
    initial_epoch: int = 0,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> None:
    """Train with gradient descent, the learning rate falling to nothing; shows a progress bar."""
    fit(
        model,
        Dataset(task.training_pairs[task.schema.column_names], schema=task.schema),
        # Adagrad and Adam learn rare users and places by heart: recall@20 of .172 and not .181.
        tf.keras.optimizers.SGD,
        LEARNING_RATE,
        n_pairs=len(task.training_pairs),
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=callbacks,
    )
