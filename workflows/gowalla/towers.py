"""Two towers of users and places, trained jointly with their index or, to compare, without one.

A user is known by number and by the places visited, a place by number, by the places most like it
(see ``neighbours``) and by how popular it is. The embeddings start from a singular value
decomposition of the visits (see ``vectors``), so that a few epochs are enough.
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
from merlin.models.tf.core.aggregation import ElementwiseSum
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.arrays import Float32, Int64, normalize
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    LengthByPopularity,
    QuantizedTwoTowerModel,
    settle_index,
)
from workflows.gowalla.data import CheckIns
from workflows.gowalla.neighbours import other_visits, similar_places
from workflows.gowalla.vectors import factorize
from workflows.id_column import id_column, id_list_column
from workflows.judged import Judged, items_of
from workflows.training import fit, retrieval_task

DIM = 128
TEMPERATURE = 0.1
# Of a loss that is a mean over the batch, of which a row of an embedding table has a small part.
LEARNING_RATE = 40.0
# Length of the embeddings at the start: the longer, the less a step turns them.
START_LENGTH = 0.8
# A user's own embedding starts this much shorter: the places visited say most.
USER_SHARE = 0.5
# Like places, whose mean embedding is added to a place's own.
N_NEIGHBOURS = 10
# Visits of a user's that are read in training. A search reads all.
N_VISITS = 20
# How much longer a place's vector is for each e-fold of visits. The direction of a place that few
# visited is little known: where all vectors are of one length, recall@20 is .175 and not .18.
LENGTH_BY_POPULARITY = 0.08
VISITED, NEIGHBOURS = "visited_places", "similar_places"
POPULARITY = ColumnSchema("item_popularity", dtype=np.float32, tags=[Tags.ITEM, Tags.CONTINUOUS])
BATCH_SIZE = 1024
EPOCHS = 6
N_LISTS = 1024
# Chosen by the recall@20 of training visits where codewords alone settled, .640 as trained and
# .647 settled (seed 0); with lists and rotation 64 are no better (docs/trials.md).
SETTLING_ROUNDS = 16
PQ_DIM = 8
N_PROBES = (1, 4, 16, 40, 100, 1024)
DEFAULT_PROBES = 40
K = 20


@dataclass(frozen=True)
class Task:
    """Visits to learn from and to find, and where the embeddings start."""

    judged: Judged
    """The users with visits to be found: ``user_id``, ``visited_places``."""
    items: pd.DataFrame
    """A row a place with training visits, the catalog: ``item_id``, ``similar_places``,
    ``item_popularity``."""
    training_pairs: pd.DataFrame
    """The training visits, a row with the columns of its user and its place."""
    starts: dict[str, Float32]
    """By column, (vocabulary, DIM) float32 first values of the embeddings."""
    item_frequencies: Int64
    """(vocabulary,) int64, training visits of each place."""

    @classmethod
    def of(cls, check_ins: CheckIns, seed: int = 0) -> Task:
        """Look at the visits; ``seed`` is of the decomposition and of the visits that are read.

        ``ValueError`` where users or places are fewer than ``DIM``.
        """
        train, test = check_ins.train, check_ins.test
        fewest = min(train["user_id"].nunique(), train["item_id"].nunique())
        if fewest < DIM:
            raise ValueError(f"check_ins: expected at least {DIM} users and places, got {fewest}")
        sizes = {c: 1 + int(max(train[c].max(), test[c].max())) for c in ("user_id", "item_id")}
        vectors = factorize(train, DIM, seed)
        frequencies = np.bincount(train["item_id"], minlength=sizes["item_id"])
        item_features = _ItemFeatures(
            similar_places(train, sizes["item_id"], N_NEIGHBOURS), frequencies
        )
        user_ids = np.unique(test["user_id"])
        visited = items_of(user_ids, train)
        users = pd.DataFrame({"user_id": user_ids}).assign(
            **{VISITED: [visited.row(user) for user in range(len(user_ids))]}
        )
        pairs = item_features.beside(train).assign(
            **{VISITED: list(other_visits(train, N_VISITS, seed))}
        )
        users_start = _start(sizes["user_id"], vectors.user_ids, vectors.users)
        items_start = _start(sizes["item_id"], vectors.item_ids, vectors.items)
        return cls(
            Judged.of(users, train, test, K),
            item_features.beside(pd.DataFrame({"item_id": vectors.item_ids})),
            pairs,
            {
                "user_id": USER_SHARE * users_start,
                VISITED: items_start,
                "item_id": items_start,
                NEIGHBOURS: items_start,
            },
            frequencies,
        )

    @cached_property
    def schema(self) -> Schema:
        """Numbers and lists of users and places, and the popularity, as a Merlin schema."""
        user_id = id_column("user_id", len(self.starts["user_id"]), Tags.USER, Tags.USER_ID)
        item_id = id_column("item_id", len(self.starts["item_id"]), Tags.ITEM, Tags.ITEM_ID)
        return Schema(
            [
                user_id,
                id_list_column(VISITED, item_id, Tags.USER),
                item_id,
                id_list_column(NEIGHBOURS, item_id, Tags.ITEM),
                POPULARITY,
            ]
        )


@dataclass(frozen=True)
class _ItemFeatures:
    """What a place is known by beside its number."""

    neighbours: Int64
    """(vocabulary, N_NEIGHBOURS) int64."""
    frequencies: Int64
    """(vocabulary,) int64, training visits of each place."""

    def beside(self, frame: pd.DataFrame) -> pd.DataFrame:
        """``frame``, which has ``item_id``, with the features of its places.

        The popularity is the logarithm of a place's visits, less its mean over the catalog.
        """
        logarithms = np.log(np.maximum(self.frequencies, 1))
        centred = logarithms - logarithms[self.frequencies > 0].mean()
        places = frame["item_id"].to_numpy()
        return frame.assign(
            **{
                NEIGHBOURS: list(self.neighbours[places]),
                POPULARITY.name: centred[places].astype(np.float32),
            }
        )


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
    """A user's own embedding and the mean of the places visited, at length 1."""
    return mm.SequentialBlock([ElementwiseSum(), mm.L2Norm()])


def item_tower() -> mm.SequentialBlock:
    """A place's own embedding and its neighbours' mean; the length is a matter of popularity."""
    return mm.SequentialBlock(
        [LengthByPopularity(ElementwiseSum(), POPULARITY.name, LENGTH_BY_POPULARITY)]
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
    """Move a joint model's index to where it fits the places best, often visited ones most."""
    settle_index(model, task.items, frequencies=task.item_frequencies, rounds=SETTLING_ROUNDS)


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
