"""Sentence encoders by name: each ``list[str] -> (n, width) float32``, none taken in silence."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from merlin_poeem.frames.text_index import Encoder

NNLM = "https://tfhub.dev/google/nnlm-en-dim128/2"


def open_encoder(name: str) -> Encoder:
    """``wordllama``, ``tf-hub:HANDLE`` or ``saved-model:FOLDER``.

    Raises ``ImportError`` that says what to install, and ``ValueError`` on another name. There is
    no falling back: where TF-Hub can't be reached, its own error comes through.
    """
    kind, _, argument = name.partition(":")
    if kind == "wordllama" and not argument:
        return wordllama()
    if kind == "tf-hub" and argument:
        return _of_sentences(_import("tensorflow_hub").load(argument))
    if kind == "saved-model" and argument:
        return _of_sentences(_import("tensorflow").saved_model.load(argument))
    raise ValueError(
        "encoder: expected wordllama, tf-hub:HANDLE (such as "
        f"tf-hub:{NNLM}) or saved-model:FOLDER; got {name!r}"
    )


def wordllama() -> Encoder:
    """WordLlama's static token vectors, 256 wide; they come with the package: no download."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    package = _import("wordllama")
    # Importing it makes every library's INFO messages appear.
    root.setLevel(level)
    root.handlers[:] = handlers
    folder = Path(package.__file__).parent
    model = package.WordLlama.load(cache_dir=folder, disable_download=True)
    return model.embed


def _of_sentences(model: Any) -> Encoder:
    """A TensorFlow module that takes a vector of strings, as TF-Hub's text embeddings do."""
    tensorflow = _import("tensorflow")
    return lambda texts: np.asarray(model(tensorflow.constant(texts)))


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.replace("_", "-")
        raise ImportError(f"this encoder needs {package}: pip install {package}") from error
