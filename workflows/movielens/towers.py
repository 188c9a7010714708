"""Two towers of users and films, trained jointly with their index or, to compare, without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import merlin.models.tf as mm
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem.blocks import (
    IVFPQQuantizer,
    QuantizedRecall,
    QuantizedTwoTowerModel,
    settle_index,
)
from workflows.judged import Judged
from workflows.movielens.features import Features
from workflows.training import fit, n_steps, retrieval_task

DIM = 64
TEMPERATURE = 0.15
LEARNING_RATE = 0.005
N_LISTS = 128
SETTLING_ROUNDS = 16
PQ_DIM = 8
N_PROBES = (1, 4, 8, 16, 32, 128)
DEFAULT_PROBES = 32
BATCH_SIZE = 1024
EPOCHS = 6
K = 20
SHOWN_USERS = 3


def tower() -> mm.MLPBlock:
    """The layers above a tower's embeddings."""
    return mm.MLPBlock([DIM], no_activation_last_layer=True)


def model_parts(features: Features) -> dict[str, object]:
    """What the joint and the plain model share: embedding tables and the loss."""
    return {
        "embedding_options": mm.EmbeddingOptions(
            embedding_dims={"user": DIM, "item": DIM}, embedding_dim_default=16
        ),
        "prediction_tasks": retrieval_task(features.schema, features.item_frequencies, TEMPERATURE),
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


def new_quantizer(
    *, pq_dim: int = PQ_DIM, pq_bits: int = 8, seed: int = 0, **options: Any
) -> IVFPQQuantizer:
    """The films' index; ``options`` are the quantizer's."""
    return IVFPQQuantizer(N_LISTS, pq_dim, pq_bits, metric="cosine", seed=seed, **options)


def train(
    model: mm.RetrievalModel,
    features: Features,
    *,
    batch_size: int,
    epochs: int,
    initial_epoch: int = 0,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> None:
    """Train with Adam, the learning rate falling to nothing; shows Keras' progress bar."""
    fit(
        model,
        Dataset(features.train, schema=features.schema),
        tf.keras.optimizers.Adam,
        LEARNING_RATE,
        n_pairs=len(features.train),
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=callbacks,
    )


def train_joint(
    features: Features,
    judged: Judged,
    *,
    seed: int,
    batch_size: int,
    epochs: int,
) -> mm.RetrievalModel:
    """A trained joint model; each epoch shows what quantization costs."""
    tf.keras.utils.set_random_seed(seed)
    steps = n_steps(len(features.train), batch_size, epochs)
    quantizer = new_quantizer(seed=seed)
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
    settle(model, features)
    return model


def settle(model: mm.RetrievalModel, features: Features) -> None:
    """Move a joint model's index to where it fits the films best, often rated ones most."""
    settle_index(
        model, features.items, frequencies=features.item_frequencies, rounds=SETTLING_ROUNDS
    )
