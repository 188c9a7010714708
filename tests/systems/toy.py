"""A small two-tower model's data: a user tower of every kind of column, and requests for it."""

from __future__ import annotations

from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.blocks import IVFPQQuantizer, QuantizedTwoTowerModel
from merlin_poeem.blocks.quantizer import warm_start
from tests.systems.served import flat

N_USERS, N_ITEMS, DIM = 30, 200, 8


def column(name: str, size: int, *tags: Tags, **options: Any) -> ColumnSchema:
    domain = {"min": 0, "max": size - 1, "name": name}
    tags = [*tags, Tags.CATEGORICAL]
    return ColumnSchema(name, dtype=np.int64, tags=tags, properties={"domain": domain}, **options)


AGE = ColumnSchema("age", dtype=np.float32, tags=[Tags.USER, Tags.CONTINUOUS])
SCHEMA = Schema(
    [
        column("user_id", N_USERS, Tags.USER, Tags.USER_ID),
        column("genres", 9, Tags.USER, dims=(None, None)),
        column("home", 9, Tags.USER, dims=(None, 2)),
        AGE,
        column("item_id", N_ITEMS, Tags.ITEM, Tags.ITEM_ID),
    ]
)
ITEMS = pd.DataFrame({"item_id": np.arange(N_ITEMS)})


def make_users() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    users = np.arange(N_USERS)
    return pd.DataFrame(
        {
            "user_id": users,
            "genres": [rng.integers(0, 9, size) for size in users % 4 + 1],
            "home": list(rng.integers(0, 9, (N_USERS, 2))),
            "age": rng.random(N_USERS).astype(np.float32),
        }
    )


USERS = make_users()


def mlp() -> mm.Block:
    return mm.MLPBlock([DIM], no_activation_last_layer=True)


def trained_model() -> QuantizedTwoTowerModel:
    """Trained for a few steps, with an index of four lists."""
    tf.keras.utils.set_random_seed(0)
    quantizer = IVFPQQuantizer(
        n_lists=4, pq_dim=4, pq_bits=4, metric="cosine", warmup=1, sample_size=64
    )
    model = QuantizedTwoTowerModel(SCHEMA, mlp(), quantizer)
    model.compile("adam", run_eagerly=True, metrics=[])
    clicks = USERS.iloc[np.arange(256) % N_USERS].assign(item_id=np.arange(256) % N_ITEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "ITERATIONS", 3)
        data = Dataset(clicks.reset_index(drop=True), schema=SCHEMA)
        model.fit(data, batch_size=64, epochs=1, verbose=0)
    return model


def features(n: int = N_USERS) -> dict[str, np.ndarray]:
    """The tensors of a request for the first ``n`` users."""
    values, offsets = flat(list(USERS["genres"][:n]), n)
    return {
        "user_id": USERS["user_id"].to_numpy()[:n],
        "age": USERS["age"].to_numpy()[:n],
        "home": np.array(USERS["home"][:n].tolist(), np.int64).reshape(n, 2),
        "genres__values": values,
        "genres__offsets": offsets,
    }
