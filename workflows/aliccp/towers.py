"""Two towers of visitors and items, trained on clicks jointly with their index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem.blocks import IVFPQQuantizer, QuantizedTwoTowerModel
from workflows.aliccp.features import Features
from workflows.training import fit, n_steps, retrieval_task

ROWS = 2_000_000
DIM = 64
TABLE_DIM = 32
TEMPERATURE = 0.1
LEARNING_RATE = 0.005
ITEMS_PER_LIST = 800
MAX_LISTS = 1024
PQ_DIM = 16
N_PROBES = (1, 2, 4, 8, 16, 32)
DEFAULT_PROBES = 8
BATCH_SIZE = 256
EPOCHS = 4
WARMUP = 0.5
AGREEMENT = 0.5


def tower() -> mm.MLPBlock:
    """The layers above a tower's embeddings."""
    return mm.MLPBlock([2 * DIM, DIM], no_activation_last_layer=True)


def model_parts(features: Features) -> dict[str, object]:
    """What the joint and the plain model share: embedding tables and the loss."""
    return {
        "embedding_options": mm.EmbeddingOptions(embedding_dim_default=TABLE_DIM),
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
    *,
    lists: int = MAX_LISTS,
    pq_dim: int = PQ_DIM,
    pq_bits: int = 8,
    seed: int = 0,
    **options: Any,
) -> IVFPQQuantizer:
    """The items' index; ``options`` are the quantizer's."""
    options = {"warmup": WARMUP, "agreement": AGREEMENT, **options}
    return IVFPQQuantizer(lists, pq_dim, pq_bits, metric="cosine", seed=seed, **options)


def train(
    model: mm.RetrievalModel,
    clicks: Dataset,
    n_clicks: int,
    *,
    batch_size: int,
    epochs: int,
    initial_epoch: int = 0,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
) -> None:
    """Train with Adam, the learning rate falling to nothing; shows a progress bar."""
    fit(
        model,
        clicks,
        tf.keras.optimizers.Adam,
        LEARNING_RATE,
        n_pairs=n_clicks,
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=callbacks,
    )


def train_joint(
    features: Features,
    n_items: int,
    *,
    seed: int,
    batch_size: int,
    epochs: int,
) -> mm.RetrievalModel:
    """A trained joint model, with as many lists as ``n_items`` ask for; streams the clicks."""
    tf.keras.utils.set_random_seed(seed)
    model = joint_model(features, new_quantizer(lists=n_lists(n_items), seed=seed))
    steps = n_steps(features.n_train, batch_size, epochs)
    print(f"Training the towers jointly with their index, {steps} steps.")
    train(model, features.clicks(), features.n_train, batch_size=batch_size, epochs=epochs)
    return model


def n_lists(n_items: int) -> int:
    """A power of two, about ``ITEMS_PER_LIST`` items a list, from 8 to ``MAX_LISTS``."""
    return int(np.clip(2 ** round(np.log2(n_items / ITEMS_PER_LIST)), 8, MAX_LISTS))
