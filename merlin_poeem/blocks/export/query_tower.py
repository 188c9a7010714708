"""The query tower on its own: saved in stock operations, it turns features into query vectors.

Serving and :class:`~merlin_poeem.ops.RetrieveCandidates` need this half of a trained model alone.
Beside it is stored what tells whether an index fits it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from merlin.schema import ColumnSchema, Schema
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, as_vectors
from merlin_poeem.atomic_files import whole_folder
from merlin_poeem.blocks.model.freshness import tower_fingerprint
from merlin_poeem.blocks.model.towers import query_tower_of
from merlin_poeem.frames.columns import read_lists, read_numbers
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.search.ragged import offsets_of

OUTPUT = "query_vector"
HEADER_FILE = "query_tower.json"
MAGIC = "merlin_poeem query tower"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Feature:
    """A column that a tower reads."""

    name: str
    dtype: str
    """Of its values, such as ``"int64"``."""

    length: int | None
    """Values per row: 0 one, not in a list; None lists of any length; else lists of that many."""

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

    def tensors(self, frame: Any) -> dict[str, NDArray[Any]]:
        """The same tensors, of a frame; raises what :meth:`QueryTower.vectors` promises."""
        if self.length == 0:
            return {self.name: self._cast(read_numbers(frame, self.name))}
        lengths, values = read_lists(frame, self.name)
        _check(self.name, lengths >= 0, "no nulls", "one")
        values = self._cast(values) if len(values) else np.empty(0, self.dtype)
        if self.length is None:
            offsets = offsets_of(lengths).astype(np.int32)
            return {f"{self.name}__values": values, f"{self.name}__offsets": offsets}
        _check(self.name, lengths == self.length, f"lists of {self.length}", "another length")
        return {self.name: values.reshape(-1, self.length)}

    def _cast(self, values: NDArray[Any]) -> NDArray[Any]:
        if not np.can_cast(values.dtype, self.dtype, "same_kind"):
            raise TypeError(f"column {self.name!r}: expected {self.dtype}, got {values.dtype}")
        cast = values.astype(self.dtype, copy=False)
        if cast.dtype.kind in "iu" and (cast != values).any():
            raise ValueError(f"column {self.name!r}: expected values that fit in {self.dtype}")
        return cast


class QueryTower:
    """A saved query tower, opened for use; see :func:`load_query_tower`."""

    def __init__(self, path: Path, fingerprint: str, dim: int, features: list[Feature]) -> None:
        self.path = path
        self.fingerprint = fingerprint
        """Of the tower's weights, as in :func:`~merlin_poeem.blocks.check_fresh`."""
        self.dim = dim
        """Width of the vectors."""
        self.features = features
        self._tower = tf.saved_model.load(str(path))

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        return [feature.name for feature in self.features]

    def vectors(self, frame: Any, batch_size: int = 8192) -> Float32:
        """The query vectors (n, dim) float32 of the rows of ``frame``, in their order.

        ``frame`` is pandas', or cuDF's, whose columns are copied to the host. It holds
        :attr:`columns` as the workflow made them, and may hold others.

        Raises
        ------
        TypeError
            A column whose values are of another kind than the tower's, such as floats for ids.
        ValueError
            Columns missing (named), nulls, lists of another length than the tower's, integers too
            large for its dtype, or vectors that are not finite.
        """
        batch_size = positive_int("batch_size", batch_size)
        missing = sorted(set(self.columns) - set(frame.columns))
        if missing:
            raise ValueError(
                f"frame: expected the columns {missing}, got {sorted(map(str, frame.columns))}"
            )
        vectors = np.empty((len(frame), self.dim), np.float32)
        for start in range(0, len(frame), batch_size):
            part = slice(start, start + batch_size)
            vectors[part] = self._batch(frame.iloc[part])
        return as_vectors("query vectors", vectors)

    def _batch(self, frame: Any) -> Float32:
        given: dict[str, NDArray[Any]] = {}
        for feature in self.features:
            given.update(feature.tensors(frame))
        tensors = {name: tf.constant(values) for name, values in given.items()}
        batch: Float32 = self._tower(tensors)[OUTPUT].numpy()
        return batch


def save_query_tower(model: tf.keras.Model, path: str | os.PathLike[str]) -> None:
    """Save the query tower of ``model`` as the directory ``path``; a tower saved there is replaced.

    It is a SavedModel of stock operations, which ``tf.saved_model.load`` runs where neither Merlin
    nor this library is installed, and which Merlin Systems' ``PredictTensorflow`` takes. Its inputs
    are the tower's columns, lists as ``<column>__values`` and ``<column>__offsets`` (int32); its
    one output is ``query_vector``, (n, dim) float32. ``query_tower.json`` beside it tells what it
    reads, and the fingerprint of its weights.

    Parameters
    ----------
    model
        A two-tower model, V1 or V2, that has been trained, or called.

    Raises
    ------
    TypeError
        Not a two-tower model.
    ValueError
        A model not called yet, a column without dtype in the tower's schema, or a ``path`` that
        holds anything but a saved query tower.
    """
    path = Path(path)
    _check_target(path)
    tower = query_tower_of(model)
    features = features_of(tower.schema)
    fingerprint = tower_fingerprint(tower)
    serve = serving_function(tower, features)
    outputs = serve.get_concrete_function().structured_outputs
    header = {
        "magic": MAGIC,
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "dim": outputs[OUTPUT].shape[-1],
        "features": [asdict(feature) for feature in features],
    }
    with whole_folder(path, replace=True) as partial:
        tf.saved_model.save(saved_module(serve), str(partial), signatures=serve)
        (partial / HEADER_FILE).write_text(json.dumps(header, indent=1))


def load_query_tower(path: str | os.PathLike[str]) -> QueryTower:
    """Open the query tower saved in the directory ``path``.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``path``.
    ValueError
        What is there is no query tower, or of a newer version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no query tower there")
    header = _read_header(path)
    features = [Feature(**feature) for feature in header["features"]]
    return QueryTower(path, header["fingerprint"], header["dim"], features)


def _check_target(path: Path) -> None:
    """``ValueError`` unless ``path`` is free, or holds a query tower that may be replaced."""
    if path.exists():
        try:
            _read_header(path)
        except ValueError as error:
            raise ValueError(
                f"{path}: expected a free name or a query tower to replace, got something else; "
                "delete it or save elsewhere"
            ) from error


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / HEADER_FILE).read_text())
        magic, version = header["magic"], header["format_version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: expected a saved query tower, got something else") from error
    if magic != MAGIC:
        raise ValueError(f"{path}: expected a saved query tower, got {magic!r}")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format version {FORMAT_VERSION}, got {version}: "
            "saved by a newer release"
        )
    return dict(header)


def features_of(schema: Schema) -> list[Feature]:
    """The columns of a tower's schema; ``ValueError`` naming one that is without a dtype."""
    return [_feature_of(column) for column in schema]


def _feature_of(column: ColumnSchema) -> Feature:
    dtype = column.dtype.to_numpy if column.dtype.is_integer or column.dtype.is_float else None
    if dtype is None:
        raise ValueError(
            f"schema: expected a dtype of numbers for column {column.name!r}, got "
            f"{column.dtype.name}"
        )
    length = None if column.is_ragged else 0
    if column.is_list and not column.is_ragged:
        length = column.shape.as_tuple[1]
    return Feature(column.name, np.dtype(dtype).name, length)


def serving_function(tower: tf.keras.layers.Layer, features: list[Feature]) -> Any:
    """A ``tf.function`` from the tensors of ``features``, by name, to ``{OUTPUT: vectors}``."""
    specs = {name: spec for feature in features for name, spec in feature.specs().items()}

    def serve(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = {
            name: tf.cast(tensor, tf.int64) if name.endswith("__offsets") else tensor
            for name, tensor in features.items()
        }
        return {OUTPUT: tower(given, training=False)}

    return tf.function(serve, input_signature=[specs])


def saved_module(serve: Any) -> tf.Module:
    """What is saved of a ``tf.function`` with an input signature: it and the weights that it reads.

    Not the weights of the tower's layers: each layer of a model of the first kind leads to all
    embedding tables of the model, so that the items' would be served with the query tower.

    A function under the name ``__call__`` is what ``PredictTensorflow`` calls, and the only one
    that it finds.
    """
    module = tf.Module()
    module.weights = serve.get_concrete_function().variables
    module.__call__ = serve
    return module


def _check(name: str, holds: NDArray[np.bool_], expected: str, got: str) -> None:
    wrong = np.flatnonzero(~holds)
    if len(wrong):
        raise ValueError(f"column {name!r}: expected {expected}, got {got} in row {wrong[0]}")
