"""Saving a model as its configuration, its weights and one function that serves it.

Keras would save a trace of every layer beside them, four times over: 20 seconds and most of the
file of a small model, for programs that load a model without the classes that it is of. Merlin's
classes are needed anyway.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from keras.saving.legacy.saving_utils import trace_model_call
from merlin.models.io import save_merlin_metadata
from merlin.schema import ColumnSchema, Schema

from merlin_poeem.blocks.model.horovod import is_first

SIGNATURE = "serving_default"


def save_model(
    model: tf.keras.Model,
    path: str | os.PathLike[str],
    include_optimizer: bool = True,
    save_traces: bool = False,
    *,
    overwrite: bool = True,
    options: tf.saved_model.SaveOptions | None = None,
) -> None:
    """Save ``model`` for ``tf.keras.models.load_model``, which needs ``merlin_poeem.blocks``.

    It is a SavedModel with the signature ``serving_default``, and Merlin's schemas beside it. Of
    several processes of Horovod the first saves.

    Parameters
    ----------
    include_optimizer
        Whether to save the optimizer's state, to train on.
    save_traces
        Whether to save Keras' traces of every layer too.
    overwrite
        Whether to replace what is at ``path``; False asks first.
    options
        As of ``tf.saved_model.save``.

    Raises
    ------
    ValueError
        The model has not been called yet: its inputs are unknown.
    """
    if not is_first():
        return
    serve = trace_model_call(model)
    tf.keras.Model.save(
        model,
        path,
        overwrite=overwrite,
        include_optimizer=include_optimizer,
        save_format="tf",
        signatures={SIGNATURE: serve},
        options=options,
        save_traces=save_traces,
    )
    save_merlin_metadata(path, model.schema, _output_schema(serve))


def _output_schema(serve: Any) -> Schema:
    """Of the outputs of a concrete function; a matrix is a column of lists."""
    return Schema([_column(name, spec) for name, spec in serve.structured_outputs.items()])


def _column(name: str, spec: tf.TensorSpec) -> ColumnSchema:
    dtype = spec.dtype.as_numpy_dtype
    width = spec.shape[1] if spec.shape.rank and spec.shape.rank > 1 else None
    if width is None or width < 2:
        return ColumnSchema(name, dtype=dtype)
    return ColumnSchema(name, dtype=dtype, dims=(None, width))
