"""From a trained model to codes and vectors: the last step on TensorFlow's side.

A dataset is read partition by partition and batch by batch, so memory is bounded by the larger of
the two and by what is returned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import Schema, Tags
from numpy.typing import NDArray

from merlin_poeem.arrays import LARGEST_VALUE, Float32, normalize, type_name
from merlin_poeem.blocks.export.exported_ids import (
    FirstRows,
    Ids,
    read_exported_ids,
    tell_of_encoded_ids,
)
from merlin_poeem.blocks.export.features import Feature, batches
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow, WorkflowPart
from merlin_poeem.blocks.model.freshness import (
    INFO_KEY,
    check_fresh,
    fingerprints_of,
    tower_fingerprint,
)
from merlin_poeem.blocks.model.towers import Towers, query_tower_of
from merlin_poeem.frames.columns import column_of
from merlin_poeem.frames.cudf_calls import is_cudf, to_pandas
from merlin_poeem.index.index import Index, stored_vectors
from merlin_poeem.index.item_keys import Keys, keyed_table
from merlin_poeem.progress import Progress
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams, positive_int
from merlin_poeem.quantization.stored_vectors import (
    StoredVectors,
    VectorDtype,
    check_vector_dtype,
)
from merlin_poeem.quantization.suggested_params import suggest_n_probes

Frames: TypeAlias = Dataset | pd.DataFrame
"""Or a cuDF frame, a type that is not there where cuDF is not."""

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
    :class:`~merlin_poeem.Quantization`): scores are then nearer to the model's own.
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
    if workflow is None and id_column is None:
        tell_of_encoded_ids(towers.item.schema[tagged_column(towers.item.schema, Tags.ITEM_ID)])
    encoded = encode(
        towers,
        items,
        batch_size,
        id_column,
        store_vectors,
        workflow=workflow,
        progress=progress,
    )
    if item_table is not None and not hasattr(item_table, "columns"):
        name = id_column or tagged_column(towers.item.schema, Tags.ITEM_ID)
        item_table = _columns_of(items, name, item_table)
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
        batches = _item_batches(towers, items, batch_size, id_column, workflow)
        return _collect(_shown(batches, items, progress))


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
    batches = _query_batches(tower, queries, batch_size, id_column, workflow)
    return _collect(_shown(batches, queries, progress))


def checked_info(info: dict[str, Any] | None) -> dict[str, Any]:
    """A copy of ``info``; ``ValueError`` where it has the fingerprints' key."""
    info = dict(info or {})
    if INFO_KEY in info:
        raise ValueError(f"info: expected no key {INFO_KEY!r}, which is written here, got {info}")
    return info


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
        batches = _item_batches(towers, items, batch_size, id_column, workflow)
        for item_ids, vectors in _shown(batches, items, progress):
            ids.append(item_ids)
            coded.append(_coded(quantization, params, vectors))
            if store_vectors is not None:
                stored.append(stored_vectors(params, quantization, vectors, store_vectors))
    if not coded:
        raise ValueError("items: expected at least one row, got none")
    list_ids, codes, scales = (np.concatenate(column) for column in zip(*coded, strict=True))
    all_ids, keys = _joined(ids), None
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


def _shown(
    batches: Iterator[tuple[Ids, Float32]], frames: Frames, progress: bool
) -> Iterator[tuple[Ids, Float32]]:
    """``batches`` of the rows of ``frames``, with a bar where ``progress`` is to be shown."""
    # The rows of a dataset are counted by reading it; what is no frame is refused by ``batches``.
    is_frame = hasattr(frames, "columns") and not isinstance(frames, Dataset)
    n_rows, n_done = len(frames) if is_frame else None, 0
    with Progress("encode", n_rows, "rows", shown=progress) as bar:
        for ids, vectors in batches:
            yield ids, vectors
            bar.update(len(ids))
            n_done += len(ids)
        if n_rows is not None:
            bar.update(n_rows - n_done)  # those that repeat an id


def _collect(batches: Iterator[tuple[Ids, Float32]]) -> tuple[Ids, Float32]:
    parts = list(batches)
    if not parts:
        raise ValueError("dataset: expected at least one row, got none")
    ids, vectors = zip(*parts, strict=True)
    return _joined(ids), np.concatenate(vectors)


def _joined(ids: Sequence[Ids]) -> Ids:
    """``TypeError`` where some parts have texts and others numbers."""
    if len({part.dtype == object for part in ids}) > 1:
        raise TypeError("ids: expected integers or texts in all partitions, got both")
    return np.concatenate(ids)


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


def _item_batches(
    towers: Towers,
    items: Frames,
    batch_size: int,
    id_column: str | None,
    workflow: AnyWorkflow | None = None,
) -> Iterator[tuple[Ids, Float32]]:
    """(item ids, the item tower's output) of each batch of ``items``, each id once."""
    name = id_column or tagged_column(towers.item.schema, Tags.ITEM_ID)
    features_of, first_rows = _reader(towers.item, workflow), FirstRows()
    for frame in partitions(items):
        _check_id_column(frame, name, workflow)
        ids = read_exported_ids(frame, name)
        rows = first_rows.of(ids)
        if len(rows) == len(frame):
            yield from tower_batches(towers.item, features_of(frame), ids, batch_size)
        else:
            with _counted_without_repeats():
                features = features_of(frame.iloc[rows])
                yield from tower_batches(towers.item, features, ids[rows], batch_size)


def _query_batches(
    tower: tf.keras.layers.Layer,
    queries: Frames,
    batch_size: int,
    id_column: str | None,
    workflow: AnyWorkflow | None = None,
) -> Iterator[tuple[Ids, Float32]]:
    """(query ids, the query tower's output) of each batch of ``queries``."""
    name = id_column or tagged_column(tower.schema, Tags.USER_ID)
    features_of = _reader(tower, workflow)
    for frame in partitions(queries):
        _check_id_column(frame, name, workflow)
        ids = read_names(frame, name)
        yield from tower_batches(tower, features_of(frame), ids, batch_size)


def _reader(
    tower: tf.keras.layers.Layer, workflow: AnyWorkflow | None
) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """What makes frames with the tower's columns of the frames that are given."""
    if workflow is None:
        return lambda frame: frame
    return WorkflowPart(workflow, tower.schema.column_names)


def _check_id_column(frame: pd.DataFrame, name: str, workflow: AnyWorkflow | None) -> None:
    if workflow is not None and name not in frame.columns:
        raise ValueError(
            f"dataset: expected the raw ids in column {name!r}, as the tower calls it, got "
            f"{sorted(map(str, frame.columns))}: name it with id_column"
        )
    check_columns(frame, [name])


def tower_vectors(tower: tf.keras.layers.Layer, frame: pd.DataFrame, batch_size: int) -> Float32:
    """The tower's output (n, dim) for the rows of ``frame``; errors as of :func:`encode_items`."""
    return np.concatenate(
        [vectors for _, vectors in tower_batches(tower, frame, frame.index, batch_size)]
    )


def tower_batches(
    tower: tf.keras.layers.Layer, frame: pd.DataFrame, ids: Ids, batch_size: int
) -> Iterator[tuple[Ids, Float32]]:
    """(ids, the tower's output) of each batch of ``frame``, whose rows have the ids (n,).

    Raises as :func:`encode_items` does of columns.
    """
    batch_size = positive_int("batch_size", batch_size)
    check_columns(frame, tower.schema.column_names)
    features = [Feature.of(column) for column in tower.schema]
    for rows, tensors in batches(features, frame, batch_size):
        # Under mixed precision, towers end in half precision.
        vectors: Float32 = tf.cast(tower(tensors, training=False), tf.float32).numpy()
        _check_output(vectors, rows.start)
        yield ids[rows], vectors


def _check_output(vectors: Float32, start: int) -> None:
    """``ValueError`` where vectors (n, dim), of the rows from ``start`` on, have no place here.

    They have NaN, infinity, or values that are too large.
    """
    fits = (np.abs(vectors) <= LARGEST_VALUE).all(axis=1)
    if not fits.all():
        raise ValueError(
            f"tower output: expected finite values of at most {LARGEST_VALUE:.0e} in size, got "
            f"others, first in row {start + int(fits.argmin())}, whose features are finite: look "
            "for weights of the tower that are not, or that are too large"
        )


@contextmanager
def _counted_without_repeats() -> Iterator[None]:
    """Errors inside say how they count rows."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}; rows that repeat an id are not counted") from error


def partitions(frames: Frames) -> Iterator[pd.DataFrame]:
    """``frames`` one after the other, each pandas'; ``TypeError`` where they are none."""
    if isinstance(frames, Dataset):
        for partition in frames.to_ddf().partitions:
            yield _on_host(partition.compute())
    elif isinstance(frames, pd.DataFrame) or (is_cudf(frames) and hasattr(frames, "columns")):
        yield _on_host(frames)
    else:
        raise TypeError(f"expected a merlin.io.Dataset or a DataFrame, got {type_name(frames)}")


def _on_host(frame: Any) -> pd.DataFrame:
    return to_pandas(frame) if is_cudf(frame) else frame


def tagged_column(schema: Schema, tag: Tags) -> str:
    columns = schema.select_by_tag(tag).column_names
    if len(columns) != 1:
        raise ValueError(
            f"schema: expected one column tagged {tag.value}, got {columns}; name it with id_column"
        )
    return str(columns[0])


def read_names(frame: pd.DataFrame, name: str) -> Ids:
    """What names the rows of ``frame``, (n,) numbers or texts; ``ValueError`` on a null."""
    column = column_of(frame, name)
    is_null = column.isna().to_numpy()
    if is_null.any():
        raise ValueError(
            f"column {name!r}: expected no nulls, got {is_null.sum()}, first in row "
            f"{is_null.argmax()}"
        )
    names: Ids = column.to_numpy()
    return names


def check_columns(frame: pd.DataFrame, columns: list[str]) -> None:
    """``ValueError`` naming the ``columns`` that ``frame`` has not."""
    missing = sorted(set(columns) - set(frame.columns))
    if missing:
        got = sorted(map(str, frame.columns))
        raise ValueError(f"dataset: expected the columns {missing}, got {got}")
