"""A small query tower whose vectors are known, so that its cost is timed on the same search."""

from __future__ import annotations

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.schema import Schema, Tags

from merlin_poeem import Index
from merlin_poeem.arrays import Float32
from merlin_poeem.blocks import tower_fingerprints
from workflows.id_column import id_column

N_ITEMS = 2
"""Of the item tower, which nobody asks."""


def tower_of(queries: Float32) -> tf.keras.Model:
    """Two towers; user i's vector is row i of (n, dim) ``queries``, by a table and two layers."""
    n_queries, dim = queries.shape
    schema = Schema(
        [
            id_column("user_id", n_queries, Tags.USER, Tags.USER_ID),
            id_column("item_id", N_ITEMS, Tags.ITEM, Tags.ITEM_ID),
        ]
    )
    towers = [_encoder(schema.select_by_tag(tag), dim) for tag in (Tags.USER, Tags.ITEM)]
    model = mm.TwoTowerModelV2(*towers, schema=schema)
    model({name: tf.zeros((1, 1), tf.int64) for name in schema.column_names})
    # The first layer keeps what is above 0 and what is below it, the second puts them together.
    parts = np.hstack([np.eye(dim), -np.eye(dim)]).astype(np.float32)
    values = {queries.shape: queries, parts.shape: parts, parts.T.shape: parts.T}
    for weight in towers[0].trainable_weights:
        if tuple(weight.shape) in values:
            weight.assign(values[tuple(weight.shape)])
    return model


def of_tower(index: Index, model: tf.keras.Model) -> Index:
    """The same index, as if it were exported from ``model``."""
    info = {**index.info, "fingerprints": tower_fingerprints(model)}
    made = Index.from_codes(index.params, index.quantization, index.item_codes, info=info)
    return made if index.has_list_lengths else made.without_list_lengths()


def _encoder(schema: Schema, dim: int) -> mm.Encoder:
    table = mm.Embeddings(schema, dim=dim)
    layers = mm.MLPBlock([2 * dim, dim], no_activation_last_layer=True)
    return mm.Encoder(mm.InputBlockV2(schema, categorical=table), layers)
