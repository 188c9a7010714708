"""Rows of frames through a tower: read, checked, and in batches, with their ids.

A dataset is read partition by partition and batch by batch, so memory is bounded by the larger of
the two and by what is kept of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import Schema, Tags

from merlin_poeem.arrays import LARGEST_VALUE, Float32, type_name
from merlin_poeem.blocks.export.exported_ids import FirstRows, Ids, read_exported_ids
from merlin_poeem.blocks.export.features import Feature, batches
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow, WorkflowPart
from merlin_poeem.blocks.model.towers import Towers
from merlin_poeem.frames.columns import column_of
from merlin_poeem.frames.cudf_calls import is_cudf, to_pandas
from merlin_poeem.progress import Progress
from merlin_poeem.quantization.params import positive_int

Frames: TypeAlias = Dataset | pd.DataFrame
"""Or a cuDF frame, a type that is not there where cuDF is not."""


def shown(
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


def collect(batches: Iterator[tuple[Ids, Float32]]) -> tuple[Ids, Float32]:
    """The ids and vectors of all ``batches``; ``ValueError`` where there are none."""
    parts = list(batches)
    if not parts:
        raise ValueError("dataset: expected at least one row, got none")
    ids, vectors = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(vectors)


def item_batches(
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


def query_batches(
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
    """The tower's output (n, dim) for the rows of ``frame``, at least one.

    Raises as :func:`~merlin_poeem.blocks.encode_items` does of columns.
    """
    return np.concatenate(
        [vectors for _, vectors in tower_batches(tower, frame, frame.index, batch_size)]
    )


def tower_batches(
    tower: tf.keras.layers.Layer, frame: pd.DataFrame, ids: Ids, batch_size: int
) -> Iterator[tuple[Ids, Float32]]:
    """(ids, the tower's output) of each batch of ``frame``, whose rows have the ids (n,).

    Raises as :func:`~merlin_poeem.blocks.encode_items` does of columns.
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
    """The one column with ``tag``; ``ValueError`` where there are none or several."""
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
