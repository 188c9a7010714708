"""Sentence encoders for :class:`~merlin_poeem.TextIndex`, opened by name; none taken in silence."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from merlin_poeem.frames.text_index import Encoder

NNLM = "https://tfhub.dev/google/nnlm-en-dim128/2"
"""A handle for ``tf-hub:``, 128 wide."""

# WordLlama wants NumPy 2, which TensorFlow 2.12 can't be beside: the extra leaves it out there.
WORDLLAMA = "pip install 'merlin-poeem[text]' on Python 3.12 or newer, without the extra train"


def open_encoder(name: str) -> Encoder:
    """An encoder: ``list[str] -> (n, width) float32``.

    Parameters
    ----------
    name
        ``wordllama``: :func:`wordllama`. ``tf-hub:HANDLE``: a text embedding of TF-Hub, such as
        ``NNLM``, which is downloaded. ``saved-model:FOLDER``: a SavedModel that takes a vector
        of strings.

    Raises
    ------
    TypeError, ValueError
        Another name.
    ImportError
        What the encoder needs is not installed; says what to install.
    OSError
        TensorFlow finds no SavedModel in the folder. There is no falling back: where TF-Hub can't
        be reached, its own error comes through.
    """
    if not isinstance(name, str):
        raise TypeError(f"encoder: expected a name, got {name!r}")
    kind, _, argument = name.partition(":")
    if kind == "wordllama" and not argument:
        return wordllama()
    if kind == "tf-hub" and argument:
        hub = _import("tensorflow_hub", "pip install tensorflow-hub")
        return _of_sentences(hub.load(argument))
    if kind == "saved-model" and argument:
        return _of_sentences(_tensorflow().saved_model.load(argument))
    raise ValueError(
        "encoder: expected wordllama, tf-hub:HANDLE (such as "
        f"tf-hub:{NNLM}) or saved-model:FOLDER; got {name!r}"
    )


def wordllama() -> Encoder:
    """WordLlama's static token vectors, 256 wide; they come with the package: no download.

    ``ImportError`` where WordLlama is not installed.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    package = _import("wordllama", WORDLLAMA)
    # Importing it makes every library's INFO messages appear.
    root.setLevel(level)
    root.handlers[:] = handlers
    folder = Path(str(package.__file__)).parent
    model = package.WordLlama.load(cache_dir=folder, disable_download=True)
    encoder: Encoder = model.embed
    return encoder


def _of_sentences(model: Any) -> Encoder:
    """A TensorFlow module that takes a vector of strings, as TF-Hub's text embeddings do."""
    tensorflow = _tensorflow()
    return lambda texts: np.asarray(model(tensorflow.constant(texts)))


def _tensorflow() -> ModuleType:
    return _import("tensorflow", "pip install tensorflow")


def _import(name: str, remedy: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.replace("_", "-")
        raise ImportError(f"this encoder needs {package}: {remedy}") from error
