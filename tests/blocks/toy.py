"""A two-tower model of 60 users and 50 items, V1 and V2, that trains in seconds."""

from __future__ import annotations

import functools

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import pytest
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.blocks import IVFPQQuantizer, QuantizedTwoTowerModel, QuantizedTwoTowerModelV2
from merlin_poeem.blocks.quantizer import warm_start

N_USERS, N_ITEMS, DIM = 60, 50, 8


def column(name: str, size: int, *tags: Tags) -> ColumnSchema:
    domain = {"min": 0, "max": size - 1, "name": name}
    tags = [*tags, Tags.CATEGORICAL]
    return ColumnSchema(name, dtype=np.int64, tags=tags, properties={"domain": domain})


SCHEMA = Schema(
    [
        column("user_id", N_USERS, Tags.USER, Tags.USER_ID),
        column("item_id", N_ITEMS, Tags.ITEM, Tags.ITEM_ID),
        column("category", 5, Tags.ITEM),
    ]
)
ITEMS = pd.DataFrame({"item_id": np.arange(N_ITEMS), "category": np.arange(N_ITEMS) % 5})
USERS = pd.DataFrame({"user_id": np.arange(N_USERS)})


def interactions() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    users = rng.integers(0, N_USERS, 1024)
    items = (users + rng.integers(0, 4, 1024)) % N_ITEMS
    return pd.DataFrame({"user_id": users, "item_id": items, "category": items % 5})


def make_quantizer(**options) -> IVFPQQuantizer:
    return IVFPQQuantizer(
        **{
            "n_lists": 4,
            "pq_dim": 4,
            "pq_bits": 4,
            "warmup": 4,
            "sample_size": 128,
            "agreement": 0.5,
            "stretch": 0.25,
            **options,
        }
    )


def mlp(**options) -> mm.Block:
    return mm.MLPBlock([DIM], **{"no_activation_last_layer": True, **options})


def encoder(tag: Tags, **options) -> mm.Encoder:
    return mm.Encoder(SCHEMA.select_by_tag(tag), mlp(), **options)


def v1(quantizer: IVFPQQuantizer, **options):
    return QuantizedTwoTowerModel(SCHEMA, mlp(), quantizer, **options)


def v2(quantizer: IVFPQQuantizer, **options):
    towers = encoder(Tags.USER), encoder(Tags.ITEM)
    return QuantizedTwoTowerModelV2(*towers, quantizer, schema=SCHEMA, **options)


def train(model, epochs: int = 1, callbacks=None, run_eagerly: bool = False):
    """Eight steps an epoch; for a few of them, eager ones are faster than a trace."""
    model.compile("adam", run_eagerly=run_eagerly, metrics=[])
    data = Dataset(interactions(), schema=SCHEMA)
    return model.fit(data, batch_size=128, epochs=epochs, verbose=0, callbacks=callbacks)


@functools.cache
def trained_model(build):
    """Trained once, for all files whose tests leave its weights as they are.

    They run in one process: see :mod:`tests.scheduling`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "ITERATIONS", 3)
        model = build(make_quantizer(metric="cosine"))
        train(model)
    return model
