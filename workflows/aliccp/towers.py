"""Two towers of visitors and items, trained on clicks jointly with their index."""

from __future__ import annotations

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem.blocks import IVFPQQuantizer, QuantizedTwoTowerModel
from workflows.aliccp.features import PART_BYTES, Features
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


def joint_model(features: Features, quantizer: IVFPQQuantizer) -> mm.RetrievalModel:
    """The two towers with the index in them."""
    task = retrieval_task(features.schema, features.item_frequencies, TEMPERATURE)
    return QuantizedTwoTowerModel(
        features.schema,
        tower(),
        quantizer,
        item_tower=tower(),
        embedding_options=mm.EmbeddingOptions(embedding_dim_default=TABLE_DIM),
        prediction_tasks=task,
    )


def train(
    features: Features,
    n_items: int,
    *,
    seed: int,
    batch_size: int,
    epochs: int,
) -> mm.RetrievalModel:
    """A trained joint model, with as many lists as ``n_items`` ask for; streams the clicks."""
    tf.keras.utils.set_random_seed(seed)
    quantizer = IVFPQQuantizer(
        n_lists(n_items),
        PQ_DIM,
        metric="cosine",
        warmup=WARMUP,
        agreement=AGREEMENT,
        seed=seed,
    )
    model = joint_model(features, quantizer)
    clicks = Dataset(
        str(features.train / "*.parquet"),
        engine="parquet",
        schema=features.schema,
        part_size=PART_BYTES,
        cpu=True,
    )
    steps = n_steps(features.n_train, batch_size, epochs)
    print(f"Training the towers jointly with their index, {steps} steps.")
    fit(
        model,
        clicks,
        tf.keras.optimizers.Adam,
        LEARNING_RATE,
        n_pairs=features.n_train,
        batch_size=batch_size,
        epochs=epochs,
    )
    return model


def n_lists(n_items: int) -> int:
    """A power of two, about ``ITEMS_PER_LIST`` items a list, from 8 to ``MAX_LISTS``."""
    return int(np.clip(2 ** round(np.log2(n_items / ITEMS_PER_LIST)), 8, MAX_LISTS))
