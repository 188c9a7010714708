"""The query tower on its own: saved in stock operations, it turns features into query vectors.

Serving and :class:`~merlin_poeem.ops.RetrieveCandidates` need this half of a trained model alone.
Beside it is stored what tells whether an index fits it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from merlin_poeem.arrays import Float32, as_vectors
from merlin_poeem.atomic_files import check_reachable, whole_folder
from merlin_poeem.blocks.export.features import Feature, batches, features_of
from merlin_poeem.blocks.model.freshness import tower_fingerprint
from merlin_poeem.blocks.model.towers import query_tower_of
from merlin_poeem.quantization.params import positive_int

OUTPUT = "query_vector"
HEADER_FILE = "query_tower.json"
MAGIC = "merlin_poeem query tower"
FORMAT_VERSION = 1


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

    @property
    def function(self) -> Any:
        """The saved ``tf.function``: from tensors by name to ``{OUTPUT: vectors}``."""
        return self._tower.__call__

    @property
    def weights(self) -> list[tf.Variable]:
        """What it computes with."""
        return list(self._tower.weights)

    def vectors(self, frame: Any, batch_size: int = 8192) -> Float32:
        """The query vectors (n, dim) float32 of the rows of ``frame``, in their order.

        ``frame`` is pandas', or cuDF's, whose columns are copied to the host. It holds
        :attr:`columns` as the workflow made them, and may hold others.

        Raises ``TypeError`` or ``ValueError`` as
        ``batches``, on columns that are missing (named),
        and on vectors that are not finite.
        """
        batch_size = positive_int("batch_size", batch_size)
        missing = sorted(set(self.columns) - set(frame.columns))
        if missing:
            raise ValueError(
                f"frame: expected the columns {missing}, got {sorted(map(str, frame.columns))}"
            )
        vectors = np.empty((len(frame), self.dim), np.float32)
        for rows, tensors in batches(self.features, frame, batch_size):
            vectors[rows] = self._tower(_as_saved(tensors))[OUTPUT].numpy()
        return as_vectors("query vectors", vectors)


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
    check_reachable(path)
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


def serving_function(tower: tf.keras.layers.Layer, features: list[Feature]) -> Any:
    """A ``tf.function`` from the tensors of ``features``, by name, to ``{OUTPUT: vectors}``."""
    specs = {name: spec for feature in features for name, spec in feature.specs().items()}

    def serve(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = {
            name: tf.cast(tensor, tf.int64) if name.endswith("__offsets") else tensor
            for name, tensor in features.items()
        }
        # Under mixed precision, towers end in half precision.
        return {OUTPUT: tf.cast(tower(given, training=False), tf.float32)}

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


def _as_saved(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Offsets as the saved function has them: what Merlin Systems sends."""
    return {
        name: tf.cast(tensor, tf.int32) if name.endswith("__offsets") else tensor
        for name, tensor in tensors.items()
    }
