"""The columns that a tower reads, and a frame's columns as its tensors, checked and in batches.

Not by Merlin's loader: that infers dtypes from values, hands nulls to TensorFlow unread, and under
Horovod gives each process another part of the frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from merlin.schema import ColumnSchema, Schema, Tags
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64
from merlin_poeem.frames.columns import read_lists, read_numbers
from merlin_poeem.search.ragged import offsets_of
from merlin_poeem.serving.features import TowerFeature

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Feature(TowerFeature):
    """A column that a tower reads, and how a schema, TensorFlow and a frame have it."""

    @classmethod
    def of(cls, column: ColumnSchema) -> Feature:
        """The feature that a schema describes."""
        is_number = column.dtype.is_integer or column.dtype.is_float
        dtype = np.dtype(column.dtype.to_numpy).name if is_number else None
        length = None if column.is_ragged else 0
        if column.is_list and not column.is_ragged:
            length = column.shape.as_tuple[1]
        domain = column.int_domain if Tags.CATEGORICAL in column.tags else None
        # Merlin takes a domain that ends at 0 for one that is not known.
        largest = None if domain is None or not domain.max else int(domain.max)
        return cls(column.name, dtype, length, largest)

    def specs(self) -> dict[str, tf.TensorSpec]:
        """The tensors that carry it, in Merlin's layout for list columns."""
        if self.length is None:
            return {
                f"{self.name}__values": tf.TensorSpec((None,), self.dtype, f"{self.name}__values"),
                # What Merlin Systems sends; towers take int64.
                f"{self.name}__offsets": tf.TensorSpec((None,), tf.int32, f"{self.name}__offsets"),
            }
        shape = (None, self.length) if self.length else (None,)
        return {self.name: tf.TensorSpec(shape, self.dtype, self.name)}

    def read(self, frame: Any) -> FeatureColumn:
        """Its column of ``frame``; raises what :func:`batches` promises."""
        if self.length == 0:
            return FeatureColumn(self, self.checked(read_numbers(frame, self.name)), None)
        lengths, values = read_lists(frame, self.name)
        self.check_rows(lengths >= 0, "no nulls", "one")
        offsets = offsets_of(lengths)
        values = self.checked(values, offsets)
        if self.length is None:
            return FeatureColumn(self, values, offsets)
        self.check_lengths(lengths)
        return FeatureColumn(self, values.reshape(-1, self.length), None)


@dataclass(frozen=True, eq=False)
class FeatureColumn:
    """The values of a feature in a frame."""

    feature: Feature
    values: NDArray[Any]
    """(n,), or (n, length); of lists of any length the values of all rows."""

    offsets: Int64 | None
    """(n + 1,) where each list starts, and the last ends; None where none are ragged."""

    def tensors(self, rows: slice) -> Tensors:
        """Of some rows, ``Feature.specs`` says which."""
        name = self.feature.name
        if self.offsets is None:
            return {name: self.values[rows]}
        offsets = self.offsets[rows.start : rows.stop + 1]
        values = self.values[offsets[0] : offsets[-1]]
        return {f"{name}__values": values, f"{name}__offsets": offsets - offsets[0]}


def features_of(schema: Schema) -> list[Feature]:
    """The columns of a tower's schema; ``ValueError`` naming one without a dtype of numbers."""
    features = [Feature.of(column) for column in schema]
    for feature in features:
        if feature.dtype is None:
            raise ValueError(
                f"schema: expected a dtype of numbers for column {feature.name!r}, got "
                f"{schema[feature.name].dtype.name}"
            )
    return features


def batches(
    features: list[Feature], frame: Any, batch_size: int
) -> Iterator[tuple[slice, dict[str, tf.Tensor]]]:
    """The rows of ``frame``, ``batch_size`` at a time, and the tensors of ``features`` of them.

    ``frame`` is pandas', or cuDF's, whose columns are copied to the host. All of it is checked
    before the first batch; offsets of lists are int64.

    Raises
    ------
    TypeError
        A column whose values are of another kind than the tower's, such as floats for ids.
    ValueError
        Columns missing (named), nulls, values that are not finite, do not fit in the tower's dtype
        or are outside the schema's domain, lists of another length than the tower's: with the
        column and the first such row.
    """
    if not len(frame):  # of no rows the columns may be of any dtype
        return
    columns = [feature.read(frame) for feature in features]
    for start in range(0, len(frame), batch_size):
        rows = slice(start, min(start + batch_size, len(frame)))
        parts = [column.tensors(rows) for column in columns]
        yield rows, {name: tf.constant(part[name]) for part in parts for name in part}
