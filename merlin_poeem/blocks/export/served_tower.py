"""A query tower for a server without Merlin: as ONNX where it can be, else as a SavedModel.

What is converted is compared with the tower before it is kept. :mod:`merlin_poeem.serving.towers`
opens it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf

from merlin_poeem.arrays import Float32
from merlin_poeem.atomic_files import whole_folder
from merlin_poeem.blocks.export.features import Feature
from merlin_poeem.blocks.export.onnx_tower import save_onnx
from merlin_poeem.blocks.export.query_tower import QueryTower, load_query_tower, save_query_tower
from merlin_poeem.optional import needed_by
from merlin_poeem.search.ragged import offsets_of
from merlin_poeem.serving.features import TowerFeature
from merlin_poeem.serving.tower_facts import (
    ONNX,
    ONNX_FILE,
    OUTPUT,
    SAVED_MODEL,
    SAVED_MODEL_FOLDER,
    TowerFacts,
)
from merlin_poeem.serving.towers import Tensors, open_tower

RUNTIMES = ("auto", "onnx", "tensorflow")
TOLERANCE = 1e-4
"""Of a converted tower's vectors, as a share of the largest value in them."""
PROBES = (64, 1, 3)
"""Rows of each batch that is compared; of the last all lists are empty."""

logger = logging.getLogger(__name__)


def save_served_tower(
    tower: tf.keras.Model | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    runtime: str = "auto",
) -> TowerFacts:
    """Save a query tower as the new folder ``target``, for a server without Merlin.

    Parameters
    ----------
    tower
        A trained two-tower model, or the folder of a saved query tower.
    target
        A free name, or an empty folder.
    runtime
        What runs it at the server. ``"onnx"``: ONNX Runtime; tf2onnx and ONNX Runtime have to be
        installed here, too, as its vectors are compared with those of the tower. ``"tensorflow"``:
        any TensorFlow from 2.12 on. ``"auto"``: ONNX Runtime where that is possible, else
        TensorFlow; which, and why, is logged and in the facts.

    Returns
    -------
    TowerFacts
        As written to ``target``: its ``requires`` names what to install at the server.

    Raises
    ------
    ModuleNotFoundError
        ``runtime="onnx"``, and tf2onnx or ONNX Runtime is not installed.
    TypeError, ValueError
        As :func:`~merlin_poeem.blocks.save_query_tower` and
        :func:`~merlin_poeem.blocks.load_query_tower`; an unknown ``runtime``, or ``"onnx"`` for a
        tower that has no such form, with the reason.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime: expected one of {', '.join(RUNTIMES)}, got {runtime!r}")
    with _saved(tower) as saved, whole_folder(target) as folder:
        facts = _save(saved, folder, runtime)
    level = logging.WARNING if runtime == "auto" and facts.kind == SAVED_MODEL else logging.INFO
    logger.log(
        level,
        "query tower: exported as %s (%s); the server needs %s",
        {ONNX: "an ONNX model", SAVED_MODEL: "a SavedModel"}[facts.kind],
        facts.reason,
        " ".join(facts.requires),
    )
    return facts


@contextmanager
def _saved(tower: tf.keras.Model | str | os.PathLike[str]) -> Iterator[QueryTower]:
    if not isinstance(tower, tf.keras.Model):
        yield load_query_tower(tower)
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "query_tower"
        save_query_tower(tower, path)
        yield load_query_tower(path)


def _save(tower: QueryTower, folder: Path, runtime: str) -> TowerFacts:
    if runtime == "tensorflow":
        return _save_saved_model(tower, folder, "runtime='tensorflow'")
    try:
        return _save_onnx(tower, folder)
    except Exception as error:  # tf2onnx and the checker raise of any type
        reason = f"{type(error).__name__}: {_first_line(error)}"
        if runtime == "onnx" and isinstance(error, ModuleNotFoundError):
            raise
        if runtime == "onnx":
            raise ValueError(
                f"runtime: expected a tower that ONNX Runtime can run as TensorFlow does, got "
                f"{reason}; TensorFlow at the server runs it: runtime='tensorflow'"
            ) from error
    for path in folder.iterdir():
        path.unlink()
    return _save_saved_model(tower, folder, f"no ONNX model: {reason}")


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def _save_saved_model(tower: QueryTower, folder: Path, reason: str) -> TowerFacts:
    shutil.copytree(tower.path, folder / SAVED_MODEL_FOLDER)
    return _save_facts(tower, folder, SAVED_MODEL, reason)


def _save_onnx(tower: QueryTower, folder: Path) -> TowerFacts:
    with needed_by("a tower for ONNX Runtime", "serving"):
        import onnxruntime
    save_onnx(tower, folder / ONNX_FILE)
    reason = f"the same vectors by ONNX Runtime {onnxruntime.__version__}"
    facts = _save_facts(tower, folder, ONNX, reason)
    _check_vectors(tower, folder)
    return facts


def _save_facts(tower: QueryTower, folder: Path, kind: str, reason: str) -> TowerFacts:
    features = tuple(
        TowerFeature(feature.name, feature.dtype, feature.length, feature.largest)
        for feature in tower.features
    )
    facts = TowerFacts(kind, reason, tower.dim, tower.fingerprint, features)
    facts.save(folder)
    return facts


def _check_vectors(tower: QueryTower, folder: Path) -> None:
    """``ValueError`` where the tower in ``folder`` gives other vectors than ``tower``."""
    served = open_tower(folder, device="cpu")
    rng = np.random.default_rng(0)
    for n_rows in PROBES:
        given = _probe(tower.features, n_rows, n_rows == PROBES[-1], rng)
        expected: Float32 = tower.function(_constants(given))[OUTPUT].numpy()
        off = np.abs(served.vectors(given) - expected).max()
        allowed = TOLERANCE * max(1e-3, float(np.abs(expected).max()))
        if not off <= allowed:
            raise ValueError(
                f"vectors: expected those of TensorFlow within {allowed:.1e}, got others by "
                f"{off:.1e}"
            )


def _constants(given: Tensors) -> dict[str, tf.Tensor]:
    return {name: tf.constant(tensor) for name, tensor in given.items()}


def _probe(
    features: list[Feature], n_rows: int, empty: bool, rng: np.random.Generator
) -> dict[str, Any]:
    """Made-up rows: the tensors of ``features``."""
    tensors: dict[str, Any] = {}
    for feature in features:
        if feature.length is None:
            lengths = np.zeros(n_rows, np.int64) if empty else rng.integers(0, 5, n_rows)
            values = _values(feature, int(lengths.sum()), rng)
            tensors |= feature.tensors(values, offsets_of(lengths))
        else:
            shape = (n_rows, feature.length) if feature.length else (n_rows,)
            tensors |= feature.tensors(_values(feature, shape, rng), None)
    return tensors


def _values(feature: Feature, shape: Any, rng: np.random.Generator) -> Any:
    dtype = np.dtype(feature.dtype)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    largest = 100 if feature.largest is None else feature.largest
    return rng.integers(0, largest, shape, endpoint=True).astype(dtype)
