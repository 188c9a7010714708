"""A saved or live ``mm.TopKEncoder`` over frames: candidates for every row, without a Python loop.

Merlin's own ``batch_predict`` makes a frame cell by cell; here a batch is arrays from end to end.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.models.io import save_merlin_metadata
from merlin.models.tf.models.base import get_output_schema
from merlin.schema import Tags

from merlin_poeem.arrays import type_name
from merlin_poeem.blocks.export.features import Feature, batches
from merlin_poeem.blocks.export.tower_rows import (
    Frames,
    check_columns,
    partitions,
    read_names,
    tagged_column,
)
from merlin_poeem.blocks.in_graph.searcher import as_candidates
from merlin_poeem.blocks.in_graph.topk import IVFPQTopK
from merlin_poeem.blocks.model.freshness import (
    check_fresh,
    compare_fingerprints,
    tower_fingerprint,
)
from merlin_poeem.blocks.model.towers import query_tower_of, refuse_stand_in
from merlin_poeem.frames.columns import read_id_lists
from merlin_poeem.frames.item_ids import KeySet, as_item_set
from merlin_poeem.frames.queries import column_or_set
from merlin_poeem.frames.results import RESULT_COLUMNS, Form, results_frame
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.search.item_set import ItemFilter, ItemSet
from merlin_poeem.search.ragged import Candidates


def top_k_encoder(
    model: tf.keras.Model,
    index: Index,
    *,
    k: int = 10,
    n_probes: int | None = None,
    refine: int | None = None,
) -> mm.TopKEncoder:
    """The query tower of ``model`` and the search of ``index`` in one model.

    To evaluate, to save (:func:`save_encoder`), and for :func:`batch_predict`. The tower's weights
    are those of ``model``, not copies: train it on, and the index is stale.

    Parameters
    ----------
    model
        A two-tower model, V1 or V2, that ``index`` was exported from.
    k, n_probes, refine
        What a call takes that names none; None is the index's own.

    Raises
    ------
    StaleIndexError
        The index was exported from other weights.
    TypeError, ValueError
        Another kind of model, an index that does not say what it was exported from or that has
        item keys, ``k``, ``n_probes`` or ``refine`` out of range, or a ``refine`` above 0 and no
        vectors.
    """
    check_fresh(index, model)
    refuse_keys(index)
    layer = IVFPQTopK.from_index(index, k=k, n_probes=n_probes, refine=refine)
    encoder = mm.TopKEncoder(query_tower_of(model), topk_layer=layer, k=k)
    # Merlin would build the tower again, and a tower of TwoTowerModel then has new, random weights.
    encoder.built = True
    return encoder


def refuse_keys(index: Index) -> None:
    """``ValueError`` where ``index`` has item keys, which no graph gives."""
    if index.has_item_keys:
        raise ValueError(
            "index: expected one with integer ids, as graphs give, got one with item keys: take "
            "index.without_item_keys(), and join the keys of its item_table to what is found"
        )


def batch_predict(
    encoder: mm.TopKEncoder,
    frames: Frames,
    *,
    k: int | None = None,
    n_probes: int | None = None,
    refine: int | None = None,
    query_id: str | None = None,
    exclude: str | ItemSet | Collection[int] | None = None,
    form: Form = "long",
    batch_size: int = 8192,
) -> Iterator[pd.DataFrame]:
    """Candidates for every row of ``frames``, one frame a partition, made as it is asked for.

    Memory is bounded by a partition, its results and a batch. ``pd.concat`` makes one frame of
    all; a partition without rows gives none. That the index of the layer was exported from the
    encoder's query tower is checked once, where the index says what it was exported from.

    Parameters
    ----------
    encoder
        ``mm.TopKEncoder`` with an :class:`~merlin_poeem.blocks.IVFPQTopK`.
    frames
        A Merlin dataset, or a pandas or cuDF frame, with the query encoder's columns. cuDF's are
        copied to the host.
    k, n_probes, refine
        None takes the layer's own.
    query_id
        The column that names the queries in the result, by numbers or texts; None is the column
        tagged as user id.
    exclude
        Item ids never returned: a list column, for its row, where a null is an empty list; or, for
        all rows, an :class:`~merlin_poeem.ItemSet` or a collection of ids.
    form
        As of :func:`~merlin_poeem.search_frame`: ``"long"``, columns query id,
        ``rank``, ``item_id``, ``score``; or ``"list"``, columns query id, ``item_id``, ``score``
        (lists) and ``count``. Never padded.
    batch_size
        Rows per call of the encoder.

    Raises
    ------
    TypeError
        Another top-k layer than IVFPQTopK, or frames, ids or lists of another kind.
    StaleIndexError
        The query tower has been trained since the index was exported.
    ValueError
        Columns missing (named), null ids, nulls, NaN or values that are not of the schema's domain
        (with the column and the first such row), ``k``, ``n_probes`` or ``refine`` out of range.
    """
    refuse_stand_in(encoder)
    layer = getattr(encoder, "topk_layer", None)
    if not isinstance(layer, IVFPQTopK):
        raise TypeError(f"encoder: expected an IVFPQTopK layer, got {type_name(layer)}")
    if form not in RESULT_COLUMNS:
        raise ValueError(f"form: expected long or list, got {form!r}")
    batch_size = positive_int("batch_size", batch_size)
    query_id = query_id or tagged_column(encoder.schema, Tags.USER_ID)
    if layer.fingerprints is not None:
        compare_fingerprints(
            layer.fingerprints, {"query_tower": tower_fingerprint(encoder.blocks[0])}
        )
    excluded = column_or_set("exclude", exclude)
    if isinstance(excluded, KeySet):
        excluded = as_item_set("exclude", excluded, None)
    names = [*encoder.schema.column_names, query_id]
    for frame in partitions(frames):
        check_columns(frame, [*names, excluded] if isinstance(excluded, str) else names)
        if not len(frame):
            continue
        query_ids = read_names(frame, query_id)
        given = read_id_lists(frame, excluded) if isinstance(excluded, str) else excluded
        options = {"k": k, "n_probes": n_probes, "refine": refine}
        found = _predict(encoder, frame, batch_size, given, options)
        yield results_frame(pd, form, query_id, query_ids, found)


def save_encoder(encoder: mm.TopKEncoder, path: str | os.PathLike[str]) -> None:
    """Save as ``encoder.save`` does, with a second signature, whose search is chosen at call time.

    Signature ``serving_default`` takes the features; ``search`` takes beside them ``k``,
    ``n_probes`` and ``refine``, () int32, and ``exclude__values`` and ``exclude__offsets``, int64,
    the layout of Merlin's list columns: offsets (n_queries + 1,), or (1,) to exclude nothing.
    ``refine`` has to be 0 where the index holds no vectors. Both return
    ``scores``, ``identifiers`` and ``counts``, and run with ``tf.saved_model.load`` alone, where
    neither Merlin nor this library is installed.

    Raises ``ValueError`` where the encoder has not been called yet: its inputs are then unknown.
    """
    spec = encoder.save_spec()
    if spec is None:
        raise ValueError("encoder: expected one that has been called, got one without input shapes")
    features = {name: tf.TensorSpec(s.shape, s.dtype, name) for name, s in spec[0][0].items()}

    def serve(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return dict(encoder(features)._asdict())

    def search(
        features: dict[str, tf.Tensor],
        k: tf.Tensor,
        n_probes: tf.Tensor,
        refine: tf.Tensor,
        exclude__values: tf.Tensor,
        exclude__offsets: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        exclude = (exclude__values, exclude__offsets)
        found = encoder(features, k=k, n_probes=n_probes, refine=refine, exclude=exclude)
        return dict(found._asdict())

    options = (
        tf.TensorSpec((), tf.int32, "k"),
        tf.TensorSpec((), tf.int32, "n_probes"),
        tf.TensorSpec((), tf.int32, "refine"),
        tf.TensorSpec((None,), tf.int64, "exclude__values"),
        tf.TensorSpec((None,), tf.int64, "exclude__offsets"),
    )
    signatures = {
        "serving_default": tf.function(serve).get_concrete_function(features),
        "search": tf.function(search).get_concrete_function(features, *options),
    }
    tf.keras.Model.save(encoder, path, save_format="tf", signatures=signatures)
    save_merlin_metadata(path, encoder.schema, get_output_schema(path))


def _predict(
    encoder: mm.TopKEncoder,
    frame: pd.DataFrame,
    batch_size: int,
    exclude: ItemFilter | None,
    options: dict[str, Any],
) -> Candidates:
    features = [Feature.of(column) for column in encoder.schema]
    parts = []
    for rows, tensors in batches(features, frame, batch_size):
        given = _of_rows(exclude, rows)
        found = encoder(tensors, training=False, exclude=given, **options)
        parts.append(as_candidates(*(tensor.numpy() for tensor in found)))
    return Candidates(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("counts", "scores", "item_ids")
        )
    )


def _of_rows(exclude: ItemFilter | None, rows: slice) -> Any:
    """What the layer is given to exclude for these queries."""
    if exclude is None or isinstance(exclude, ItemSet):
        return None if exclude is None else exclude.item_ids
    offsets = exclude.offsets[rows.start : rows.stop + 1]
    return exclude.values[offsets[0] : offsets[-1]], offsets - offsets[0]
