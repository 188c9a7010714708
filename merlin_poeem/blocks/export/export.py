"""From a trained model to codes and vectors: the last step on TensorFlow's side.

A dataset is read partition by partition and batch by batch, so memory is bounded by the larger of
the two and by what is returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, TypeAlias

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import Schema, Tags

from merlin_poeem.arrays import Float32, Int64, as_vectors
from merlin_poeem.blocks.model.freshness import (
    INFO_KEY,
    check_fresh,
    fingerprints_of,
    tower_fingerprint,
)
from merlin_poeem.blocks.model.towers import Towers, query_tower_of
from merlin_poeem.frames.columns import read_ids
from merlin_poeem.frames.cudf_calls import is_cudf, to_pandas
from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes
from merlin_poeem.quantization.params import positive_int

Frames: TypeAlias = Dataset | pd.DataFrame
"""Or a cuDF frame, a type that is not there where cuDF is not."""


def export_index(
    model: tf.keras.Model,
    items: Frames,
    *,
    n_probes: int = 1,
    batch_size: int = 4096,
    id_column: str | None = None,
    item_table: pd.DataFrame | None = None,
    info: dict[str, Any] | None = None,
) -> Index:
    """The index that ``model`` has learned, over ``items``: no clustering, no second training.

    Parameters and errors as of :func:`encode_items`; ``n_probes``, ``item_table`` and ``info`` as
    of :class:`~merlin_poeem.IVFPQParams` and :class:`~merlin_poeem.Index`. Beside
    ``info`` the index keeps the fingerprints of both towers, by which
    :func:`~merlin_poeem.blocks.check_fresh` finds it stale once the model has been
    trained on; ``ValueError`` where ``info`` has that key, ``"fingerprints"``, itself.
    """
    info = checked_info(info)
    towers = Towers.of(model)
    item_codes = _encode(towers, items, batch_size, id_column)
    return index_of(towers, item_codes, n_probes=n_probes, item_table=item_table, info=info)


def encode_items(
    model: tf.keras.Model, items: Frames, *, batch_size: int = 4096, id_column: str | None = None
) -> ItemCodes:
    """Codes of all ``items``; of rows that repeat an id, the first counts.

    Parameters
    ----------
    model
        A trained two-tower model (V1 or V2) whose item tower ends in a started quantizer.
    items
        A Merlin dataset, or a pandas or cuDF frame, with the item tower's columns as the workflow
        made them. Of a cuDF frame, and of each such partition, a copy is made on the host, where
        Merlin's loader reads it.
    batch_size
        Rows per call of the tower.
    id_column
        The column with the ids to export, such as the original ids before ``Categorify``; None is
        the column tagged as item id.

    Raises
    ------
    TypeError
        Items of another kind.
    RuntimeError
        The quantizer has not started: there are no codes yet.
    ValueError
        Columns missing (named), null ids, a quantizer missing or not last in the tower.
    """
    return _encode(Towers.of(model), items, batch_size, id_column)


def item_vectors(
    model: tf.keras.Model, items: Frames, *, batch_size: int = 4096, id_column: str | None = None
) -> tuple[Int64, Float32]:
    """(item_ids (n,) int64, vectors (n, dim) float32): the FLOAT vectors, before quantization.

    For models with a quantizer and without. Parameters and errors as of :func:`encode_items`.
    """
    towers = Towers.of(model)
    with towers.quantizer.float_mode() if towers.has_quantizer else nullcontext():
        return _collect(_item_batches(towers, items, batch_size, id_column))


def query_vectors(
    model: tf.keras.Model,
    queries: Frames,
    *,
    batch_size: int = 4096,
    id_column: str | None = None,
    index: Index | None = None,
) -> tuple[Int64, Float32]:
    """(query_ids (n,) int64, vectors (n, dim) float32), one per row of ``queries``, in its order.

    ``id_column`` None is the column tagged as user id. ``index`` is one that the vectors are to
    search: a ``StaleIndexError`` where it was exported from another query tower. Errors as of
    :func:`encode_items` and :func:`~merlin_poeem.blocks.check_fresh`.
    """
    tower = query_tower_of(model)
    if index is not None:
        check_fresh(index, {"query_tower": tower_fingerprint(tower)})
    return _collect(
        _tower_batches(tower, queries, batch_size, id_column, Tags.USER_ID, first_of_each_id=False)
    )


def checked_info(info: dict[str, Any] | None) -> dict[str, Any]:
    """A copy of ``info``; ``ValueError`` where it has the fingerprints' key."""
    info = dict(info or {})
    if INFO_KEY in info:
        raise ValueError(f"info: expected no key {INFO_KEY!r}, which is written here, got {info}")
    return info


def index_of(
    towers: Towers,
    item_codes: ItemCodes,
    *,
    n_probes: int,
    item_table: pd.DataFrame | None,
    info: dict[str, Any],
) -> Index:
    """The index of items that the towers' quantizer encoded, with the towers' fingerprints."""
    quantizer = towers.quantizer
    info = {**info, INFO_KEY: fingerprints_of(towers)}
    index = Index.from_codes(
        quantizer.params, quantizer.quantization(), item_codes, item_table=item_table, info=info
    )
    return index.with_n_probes(n_probes)


def _encode(towers: Towers, items: Frames, batch_size: int, id_column: str | None) -> ItemCodes:
    quantization = towers.quantizer.quantization()
    with towers.quantizer.float_mode():
        parts = [
            (item_ids, *coding.encode(quantization, vectors))
            for item_ids, vectors in _item_batches(towers, items, batch_size, id_column)
        ]
    if not parts:
        raise ValueError("items: expected at least one row, got none")
    return ItemCodes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _item_batches(
    towers: Towers, items: Frames, batch_size: int, id_column: str | None
) -> Iterator[tuple[Int64, Float32]]:
    return _tower_batches(
        towers.item, items, batch_size, id_column, Tags.ITEM_ID, first_of_each_id=True
    )


def _collect(batches: Iterator[tuple[Int64, Float32]]) -> tuple[Int64, Float32]:
    parts = list(batches)
    if not parts:
        raise ValueError("dataset: expected at least one row, got none")
    ids, vectors = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(vectors)


def _tower_batches(
    tower: tf.keras.layers.Layer,
    frames: Frames,
    batch_size: int,
    id_column: str | None,
    id_tag: Tags,
    *,
    first_of_each_id: bool,
) -> Iterator[tuple[Int64, Float32]]:
    """(ids, the tower's output) of each batch of ``frames``."""
    batch_size = positive_int("batch_size", batch_size)
    schema = tower.schema
    id_column = id_column or tagged_column(schema, id_tag)
    seen: Int64 = np.empty(0, np.int64)
    for frame in partitions(frames):
        check_columns(frame, [*schema.column_names, id_column])
        ids = read_ids(frame, id_column)
        if first_of_each_id:
            rows = np.sort(np.unique(ids, return_index=True)[1])
            rows = rows[~np.isin(ids[rows], seen)]
            ids, frame = ids[rows], frame.iloc[rows]
            seen = np.concatenate([seen, ids])
        if not len(frame):
            continue
        dataset = Dataset(frame[schema.column_names].reset_index(drop=True), schema=schema)
        start = 0
        for features, _ in mm.Loader(dataset, batch_size=batch_size, shuffle=False):
            vectors = as_vectors("tower output", tower(features, training=False).numpy())
            yield ids[start : start + len(vectors)], vectors
            start += len(vectors)


def partitions(frames: Frames) -> Iterator[pd.DataFrame]:
    """``frames`` one after the other, each pandas'; ``TypeError`` where they are none."""
    if isinstance(frames, Dataset):
        for partition in frames.to_ddf().partitions:
            yield _on_host(partition.compute())
    elif isinstance(frames, pd.DataFrame) or (is_cudf(frames) and hasattr(frames, "columns")):
        yield _on_host(frames)
    else:
        raise TypeError(f"expected a merlin.io.Dataset or a DataFrame, got {type(frames).__name__}")


def _on_host(frame: Any) -> pd.DataFrame:
    return to_pandas(frame) if is_cudf(frame) else frame


def tagged_column(schema: Schema, tag: Tags) -> str:
    columns = schema.select_by_tag(tag).column_names
    if len(columns) != 1:
        raise ValueError(
            f"schema: expected one column tagged {tag.value}, got {columns}; name it with id_column"
        )
    return str(columns[0])


def check_columns(frame: pd.DataFrame, columns: list[str]) -> None:
    missing = sorted(set(columns) - set(frame.columns))
    if missing:
        raise ValueError(f"dataset: expected the columns {missing}, got {sorted(frame.columns)}")
