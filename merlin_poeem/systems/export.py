"""A trained model and its index as a Triton model repository, in two ways.

:func:`export_ensemble`: the query tower runs on Triton's TensorFlow backend, the search in its
Python backend, on Faiss or a GPU. :func:`export_saved_model`: both in one SavedModel, which needs
nothing but the TensorFlow backend.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import tensorflow as tf
import tritonclient.grpc.model_config_pb2 as model_config
from google.protobuf import text_format
from merlin.systems.dag import Ensemble
from merlin.systems.dag.ops.tensorflow import PredictTensorflow
from tritonclient.utils import np_to_triton_dtype

from merlin_poeem.atomic_files import check_reachable, whole_folder
from merlin_poeem.blocks.export.features import Feature, features_of
from merlin_poeem.blocks.export.query_tower import (
    OUTPUT,
    load_query_tower,
    save_query_tower,
    saved_module,
    serving_function,
)
from merlin_poeem.blocks.in_graph.predict import refuse_keys
from merlin_poeem.blocks.in_graph.topk import IVFPQTopK
from merlin_poeem.blocks.model.freshness import check_fresh
from merlin_poeem.blocks.model.towers import query_tower_of
from merlin_poeem.index.loading import load_index
from merlin_poeem.systems.query_poeem import QueryPoeem

EXECUTOR = "executor_model"
CONFIG_FILE = "config.pbtxt"
VERSION = 1
SIGNATURE = "serving_default"
OPTIONS = ("k", "n_probes", "refine")
"""Of a request to a SavedModel, one number for all its rows."""


class Repository(NamedTuple):
    """A Triton model repository that was exported."""

    path: Path
    """What ``tritonserver --model-repository`` takes."""

    model_name: str
    """The model that requests are sent to."""

    configs: dict[str, Any]
    """The ``ModelConfig`` of each model in it, as written to its ``config.pbtxt``."""


def export_ensemble(
    tower: tf.keras.Model | str | os.PathLike[str],
    index_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str = EXECUTOR,
    **search: Any,
) -> Repository:
    """Export query tower → :class:`~merlin_poeem.systems.query_poeem.QueryPoeem`.

    The repository holds all that it needs, the whole index included. Where it is served,
    ``merlin-poeem[systems]`` and a search backend have to be installed for Triton's Python backend;
    TensorFlow need not. Requests hold the tower's columns and those named in ``search``, and get
    what ``QueryPoeem`` returns.

    Parameters
    ----------
    tower
        A trained two-tower model, or the directory of a saved query tower.
    index_path
        The directory of an index saved from the same model.
    path
        Where the repository is made; nothing, or an empty directory.
    name
        Of the model that requests are sent to.
    **search
        As of ``QueryPoeem``: ``k``, ``n_probes``, ``refine``, ``exclude``, ``backend`` …

    Raises
    ------
    StaleIndexError
        The index was exported from a model with other weights.
    ValueError
        There is something at ``path``; the index holds no fingerprints; tower and index are of
        different ``dim``; an argument of ``QueryPoeem`` is wrong.
    """
    with TemporaryDirectory() as folder, _new_repository(path) as repository:
        if isinstance(tower, tf.keras.Model):
            check_fresh(load_index(index_path), tower)
            tower, model = Path(folder) / "query_tower", tower
            save_query_tower(model, tower)
        fingerprint = load_query_tower(tower).fingerprint
        check_fresh(load_index(index_path), {"query_tower": fingerprint})
        predict = PredictTensorflow(str(tower))
        step = QueryPoeem(index_path, **search)
        vectors = predict.input_schema.column_names >> predict
        schema = predict.input_schema + step.option_schema()
        ensemble = Ensemble(vectors >> step, schema)
        executor, models = ensemble.export(str(repository), name=name)
    return Repository(Path(path), name, {config.name: config for config in [executor, *models]})


def export_saved_model(
    model: tf.keras.Model,
    index_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str = "retrieval",
) -> Repository:
    """Export query tower and search as one SavedModel, for Triton's TensorFlow backend alone.

    It is of stock operations, see :class:`~merlin_poeem.blocks.IVFPQTopK`: where it is served
    nothing else is installed. Requests hold the tower's columns, ``k``, ``n_probes`` and
    ``refine``, (1,) int32, and ``exclude__values``, int64, and ``exclude__offsets``, int32, where
    offsets (1,) exclude nothing; ``refine`` is 0 where the index holds no vectors. They get
    ``scores`` and ``identifiers`` (n, k), and ``counts`` (n,), as
    :class:`~merlin_poeem.blocks.IVFPQTopK` returns them: beyond its count a row is filled up.

    Parameters
    ----------
    model
        A trained two-tower model.
    index_path, path, name
        As of :func:`export_ensemble`.

    Raises
    ------
    StaleIndexError, ValueError
        As of :func:`export_ensemble`, and on an index with item keys.
    """
    index = load_index(index_path)
    check_fresh(index, model)
    refuse_keys(index)
    with _new_repository(path) as repository:
        target = repository / name / str(VERSION) / "model.savedmodel"
        _save_search(query_tower_of(model), IVFPQTopK.from_index(index), target)
        config = _saved_model_config(name, target)
        (repository / name / CONFIG_FILE).write_text(text_format.MessageToString(config))
    return Repository(Path(path), name, {name: config})


@contextmanager
def _new_repository(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder that becomes ``path`` once all is in it; where that fails, nothing is left."""
    check_reachable(path)
    path = Path(path).resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            f"{path}: expected a free name or an empty directory, got something else; "
            "two ensembles in one repository would overwrite each other's models"
        )
    with whole_folder(path) as partial:
        yield partial


def _save_search(tower: tf.keras.layers.Layer, layer: IVFPQTopK, target: Path) -> None:
    # Not an mm.TopKEncoder: its first call builds a V1 tower anew, with random embeddings.
    features = features_of(tower.schema)
    specs = {name: spec for feature in features for name, spec in feature.specs().items()}
    query_vectors = serving_function(tower, features)
    options = Feature("exclude", "int64", None).specs()
    options |= {name: tf.TensorSpec((1,), tf.int32, name) for name in OPTIONS}

    def search(features: dict[str, tf.Tensor], options: dict[str, tf.Tensor]) -> dict[str, Any]:
        exclude = options["exclude__values"], tf.cast(options["exclude__offsets"], tf.int64)
        found = layer(
            query_vectors(features)[OUTPUT],
            exclude=exclude,
            **{name: options[name][0] for name in OPTIONS},
        )
        return dict(found._asdict())

    serve = tf.function(search, input_signature=[specs, options])
    tf.saved_model.save(saved_module(serve), str(target), signatures=serve)


def _saved_model_config(name: str, saved_model: Path) -> Any:
    """The configuration of a SavedModel, read from its signature."""
    loaded = tf.saved_model.load(str(saved_model))
    function = loaded.signatures[SIGNATURE]
    config = model_config.ModelConfig(
        name=name, backend="tensorflow", platform="tensorflow_savedmodel"
    )
    config.parameters["TF_GRAPH_TAG"].string_value = "serve"
    config.parameters["TF_SIGNATURE_DEF"].string_value = SIGNATURE
    for tensor_name, spec in sorted(function.structured_input_signature[1].items()):
        _add_tensor(config.input.add(name=tensor_name), spec)
    for tensor_name, spec in sorted(function.structured_outputs.items()):
        _add_tensor(config.output.add(name=tensor_name), spec)
    return config


def _add_tensor(entry: Any, spec: tf.TensorSpec) -> None:
    entry.data_type = model_config.DataType.Value(
        f"TYPE_{np_to_triton_dtype(spec.dtype.as_numpy_dtype)}"
    )
    entry.dims.extend(-1 if size is None else size for size in spec.shape)
