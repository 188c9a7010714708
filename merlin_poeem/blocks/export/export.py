"""From a trained model to codes and vectors: the last step on TensorFlow's side.

A dataset is read partition by partition and batch by batch, so memory is bounded by the larger of
the two and by what is returned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.schema import Tags
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, normalize
from merlin_poeem.blocks.export.exported_ids import (
    Ids,
    tell_of_encoded_ids,
)
from merlin_poeem.blocks.export.tower_rows import (
    Frames,
    check_columns,
    collect,
    item_batches,
    partitions,
    query_batches,
    shown,
    tagged_column,
)
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow
from merlin_poeem.blocks.model.freshness import (
    INFO_KEY,
    check_fresh,
    fingerprints_of,
    tower_fingerprint,
)
from merlin_poeem.blocks.model.towers import Towers, query_tower_of
from merlin_poeem.index.index import Index, stored_vectors
from merlin_poeem.index.item_keys import Keys, keyed_table
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.quantization.stored_vectors import (
    StoredVectors,
    VectorDtype,
    check_vector_dtype,
)
from merlin_poeem.quantization.suggested_params import suggest_n_probes

logger = logging.getLogger(__name__)


class EncodedItems(NamedTuple):
    """What is kept of items, each of which the item tower has seen once."""

    item_codes: ItemCodes
    """Without scales."""

    scales: coding.Float64
    """(n,) float64, exact: the range of their table is known only once all items are."""

    vectors: StoredVectors | None
    """The float vectors as an index stores them, where that was asked for."""

    keys: Keys | None = None
    """(n,) the items' ids where those are texts; ``item_codes`` then number them from 0."""


def export_index(
    model: tf.keras.Model,
    items: Frames,
    *,
    workflow: AnyWorkflow | None = None,
    n_probes: int | None = None,
    item_scales: bool = True,
    store_vectors: VectorDtype | None = None,
    batch_size: int = 4096,
    id_column: str | None = None,
    item_table: pd.DataFrame | Sequence[str] | None = None,
    info: dict[str, Any] | None = None,
    progress: bool = True,
) -> Index:
    """The index that ``model`` has learned, over ``items``: no clustering, no second training.

    With ``workflow`` the items are raw rows, as the application has them, and so are the ids that
    the index holds, integers or texts::

        index = export_index(model, items, workflow=workflow, item_table=["title"])

    Texts become the index's :attr:`~merlin_poeem.Index.item_keys`.

    With ``item_scales``, items get a scale each, a byte more, from their float vectors (see
    :class:`~merlin_poeem.Quantization`): scores are then nearer to the model's own. By cosine the
    index of a quantizer with ``stretch`` needs them, and ``item_scales=False`` is a ``ValueError``.
    ``store_vectors``, ``"float16"`` or ``"int8"``, keeps the float vectors themselves for a second
    look, 2 bytes or 1 a dimension and 4 an item, as of :meth:`Index.from_vectors
    <merlin_poeem.Index.from_vectors>`; they are made small batch by batch.

    Parameters and errors as of :func:`encode_items`; ``n_probes``, ``item_table`` and ``info`` as
    of :class:`~merlin_poeem.IVFPQParams` and :class:`~merlin_poeem.Index`. ``n_probes`` None takes
    what :func:`~merlin_poeem.suggest_params` has for as many items, and logs it at level INFO.
    ``item_table`` is a frame with the ids that the index holds, texts where those are, in
    ``item_id``; or the names of columns of ``items``.
    Beside ``info`` the index keeps the fingerprints of both towers, by which
    :func:`~merlin_poeem.blocks.check_fresh` finds it stale once the model has been
    trained on; ``ValueError`` where ``info`` has that key, ``"fingerprints"``, itself.
    """
    info = checked_info(info)
    towers = Towers.of(model)
    check_item_scales(towers, item_scales=item_scales)
    if workflow is None and id_column is None:
        tell_of_encoded_ids(towers.item.schema[tagged_column(towers.item.schema, Tags.ITEM_ID)])
    if item_table is not None and not hasattr(item_table, "columns"):
        name = id_column or tagged_column(towers.item.schema, Tags.ITEM_ID)
        item_table = _columns_of(items, name, item_table)
    encoded = encode(
        towers,
        items,
        batch_size,
        id_column,
        store_vectors,
        workflow=workflow,
        progress=progress,
    )
    return index_of(
        towers,
        encoded,
        item_scales=item_scales,
        n_probes=n_probes,
        item_table=item_table,
        info=info,
    )


def encode_items(
    model: tf.keras.Model,
    items: Frames,
    *,
    workflow: AnyWorkflow | None = None,
    batch_size: int = 4096,
    id_column: str | None = None,
    progress: bool = True,
) -> ItemCodes:
    """Codes of all ``items``, without scales; of rows that repeat an id, the first counts.

    Parameters
    ----------
    model
        A trained two-tower model (V1 or V2) whose item tower ends in a started quantizer.
    items
        A Merlin dataset, or a pandas or cuDF frame, with the item tower's columns as the workflow
        made them. Of a cuDF frame, and of each such partition, a copy is made on the host.
    workflow
        The fitted NVTabular workflow of the training, or the folder that it was saved in: ``items``
        are then raw rows with the columns of the items' side, and others if they like. Items that
        it has not seen, and nulls, are what it makes of them.
    batch_size
        Rows per call of the tower.
    id_column
        The column of ``items`` with the ids to export, such as the original ids before
        ``Categorify``; None is the name of the tower's column tagged as item id.
    progress
        Whether work of more than two seconds shows a bar on stderr.

    Raises
    ------
    TypeError
        Items of another kind, a column of other values than the tower reads, or ids that are
        texts, which :func:`export_index` takes.
    RuntimeError
        The quantizer has not started: there are no codes yet.
    ValueError
        Columns missing (named); nulls, NaN, or values that are not of the schema's domain, with
        the column and the first such row, counted from 0 in its partition; vectors that are not
        finite; a quantizer missing or not last in the tower.
    """
    towers = Towers.of(model)
    encoded = encode(towers, items, batch_size, id_column, workflow=workflow, progress=progress)
    return with_integers(encoded).item_codes


def item_vectors(
    model: tf.keras.Model,
    items: Frames,
    *,
    workflow: AnyWorkflow | None = None,
    batch_size: int = 4096,
    id_column: str | None = None,
    progress: bool = True,
) -> tuple[Ids, Float32]:
    """(item_ids (n,) int64 or texts, vectors (n, dim) float32): FLOAT, before quantization.

    For models with a quantizer and without. Parameters and errors as of :func:`encode_items`.
    """
    towers = Towers.of(model)
    with towers.quantizer.float_mode() if towers.has_quantizer else nullcontext():
        batches = item_batches(towers, items, batch_size, id_column, workflow)
        return collect(shown(batches, items, progress))


def query_vectors(
    model: tf.keras.Model,
    queries: Frames,
    *,
    workflow: AnyWorkflow | None = None,
    batch_size: int = 4096,
    id_column: str | None = None,
    index: Index | None = None,
    progress: bool = True,
) -> tuple[Ids, Float32]:
    """(query_ids (n,), vectors (n, dim) float32), one per row of ``queries``, in its order.

    With ``workflow``, as of :func:`encode_items`, they are raw rows.

    The ids are as the column has them, such as int64 or text; ``id_column`` None is the column
    tagged as user id. ``index`` is one that the vectors are to search: a ``StaleIndexError`` where
    it was exported from another query tower. ``progress`` and errors as of :func:`encode_items` and
    :func:`~merlin_poeem.blocks.check_fresh`.
    """
    tower = query_tower_of(model)
    if index is not None:
        check_fresh(index, {"query_tower": tower_fingerprint(tower)})
    batches = query_batches(tower, queries, batch_size, id_column, workflow)
    return collect(shown(batches, queries, progress))


def checked_info(info: dict[str, Any] | None) -> dict[str, Any]:
    """A copy of ``info``; ``ValueError`` where it has the fingerprints' key."""
    info = dict(info or {})
    if INFO_KEY in info:
        raise ValueError(f"info: expected no key {INFO_KEY!r}, which is written here, got {info}")
    return info


def check_item_scales(towers: Towers, *, item_scales: bool) -> None:
    """``ValueError`` where the index of the towers can't do without scales and is to have none."""
    quantizer = towers.quantizer
    if item_scales or quantizer.params.metric != "cosine":
        return
    if quantizer.quantization().query_rotation is not None:
        raise ValueError(
            "item_scales: expected True, as by cosine the index of a stretched space needs them; "
            "a model trained with stretch=0 has an index without"
        )


def index_of(
    towers: Towers,
    encoded: EncodedItems,
    *,
    item_scales: bool,
    n_probes: int | None,
    item_table: pd.DataFrame | None,
    info: dict[str, Any],
) -> Index:
    """The index of items that the towers' quantizer encoded, with the towers' fingerprints.

    ``n_probes`` is as of :func:`chosen_n_probes`.
    """
    item_codes, scales, vectors, keys = encoded
    if keys is not None:
        item_table = keyed_table(item_codes.item_ids, keys, item_table)
    params, quantization = towers.quantizer.params, towers.quantizer.quantization()
    if item_scales:
        quantization = replace(quantization, scale_range=coding.fit_scale_range(scales))
        item_codes = replace(item_codes, scales=coding.nearest_scales(quantization, scales))
    info = {**info, INFO_KEY: fingerprints_of(towers)}
    index = Index.from_codes(
        params, quantization, item_codes, vectors=vectors, item_table=item_table, info=info
    )
    index = index.with_n_probes(chosen_n_probes(n_probes, len(index), index.n_lists))
    return index if keys is None else index.with_item_keys()


def chosen_n_probes(n_probes: int | None, n_items: int, n_lists: int) -> int:
    """``n_probes``, or where it is None what is suggested for as many items, with a log's line."""
    if n_probes is None:
        n_probes = suggest_n_probes(n_items, n_lists)
        logger.info(
            "n_probes: %d of %d lists, as suggested for %d items; merlin_poeem.tune finds out how "
            "many a target takes",
            n_probes,
            n_lists,
            n_items,
        )
    return n_probes


def encode(
    towers: Towers,
    items: Frames,
    batch_size: int,
    id_column: str | None,
    store_vectors: VectorDtype | None = None,
    *,
    workflow: AnyWorkflow | None = None,
    progress: bool = False,
) -> EncodedItems:
    """Codes and exact scales of all ``items``, and their vectors where they are to be stored."""
    if store_vectors is not None:
        check_vector_dtype(store_vectors)
    quantization, params = towers.quantizer.quantization(), towers.quantizer.params
    ids, coded, stored = [], [], []
    with towers.quantizer.float_mode():
        batches = item_batches(towers, items, batch_size, id_column, workflow)
        for item_ids, vectors in shown(batches, items, progress):
            ids.append(item_ids)
            coded.append(_coded(quantization, params, vectors))
            if store_vectors is not None:
                stored.append(stored_vectors(params, quantization, vectors, store_vectors))
    if not coded:
        raise ValueError("items: expected at least one row, got none")
    list_ids, codes, scales = (np.concatenate(column) for column in zip(*coded, strict=True))
    all_ids, keys = np.concatenate(ids), None
    if all_ids.dtype == object:
        all_ids, keys = np.arange(len(all_ids), dtype=np.int64), all_ids
    return EncodedItems(
        ItemCodes(all_ids, list_ids, codes),
        scales,
        StoredVectors.joined(stored) if stored else None,
        keys,
    )


def with_integers(encoded: EncodedItems) -> EncodedItems:
    """``encoded``; ``TypeError`` where the ids are texts."""
    if encoded.keys is not None:
        raise TypeError(
            f"item ids: expected integers, got texts, such as {encoded.keys[0]!r}: export_index "
            "takes them"
        )
    return encoded


def _coded(
    quantization: Quantization, params: IVFPQParams, vectors: Float32
) -> tuple[NDArray[Any], NDArray[Any], coding.Float64]:
    """List ids, codes and exact scales of (n, dim) vectors of the item tower."""
    list_ids, codes = coding.encode(quantization, vectors)
    if params.metric == "cosine":
        vectors = normalize(vectors)
    return list_ids, codes, coding.exact_scales(quantization, vectors, list_ids, codes)


def _columns_of(items: Frames, id_column: str, columns: Any) -> pd.DataFrame:
    """Columns of the first row of each item, as an item table."""
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"item_table: expected a frame or names of columns, got {columns!r}")
    names, parts = list(columns), []
    if {"item_id", id_column} & set(names):
        raise ValueError(f"item_table: expected columns beside the ids, got {names}")
    for frame in partitions(items):
        check_columns(frame, [id_column, *names])
        parts.append(frame[[id_column, *names]])
    table = pd.concat(parts, ignore_index=True).drop_duplicates(id_column)
    return table.rename(columns={id_column: "item_id"})
