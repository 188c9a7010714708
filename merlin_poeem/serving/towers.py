"""A query tower at the server: tensors of features in, query vectors out, without Merlin.

By ONNX Runtime where the tower was converted at the export, else by whatever TensorFlow is there,
which loads the stock SavedModel. Each is imported when a tower of its kind is opened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, as_vectors
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.serving.features import TowerFeature
from merlin_poeem.serving.tower_facts import (
    ONNX,
    ONNX_FILE,
    OUTPUT,
    SAVED_MODEL_FOLDER,
    TowerFacts,
)

Tensors = Mapping[str, NDArray[Any]]
Run = Callable[[Tensors], NDArray[Any]]

DEVICES = ("auto", "cpu", "cuda")
_SIGNATURE = "serving_default"

logger = logging.getLogger(__name__)


class ServedTower:
    """A tower that was opened; see :func:`open_tower`."""

    def __init__(self, facts: TowerFacts, run: Run, runtime: str) -> None:
        self.facts = facts
        self.runtime = runtime
        """What runs it, with its release and where: ``"onnxruntime 1.23.2 on cpu"``."""
        self._run = run

    def vectors(self, tensors: Tensors) -> Float32:
        """The query vectors (n, dim) float32 of n rows.

        Parameters
        ----------
        tensors
            As the tower takes them, each in its dtype: (n,) of one value a row, (n, length) of
            lists of that length, and of lists of any length ``<name>__values`` (total,) and
            ``<name>__offsets`` (n + 1,) int32, which rise from 0 to total.

        Raises
        ------
        TypeError
            A tensor of another dtype.
        ValueError
            Tensors that are missing or not the tower's, of other shapes or rows, offsets that do
            not fit their values, and vectors that are not finite.
        """
        n_rows = check_tensors(self.facts.features, tensors)
        if not n_rows:
            return np.empty((0, self.facts.dim), np.float32)
        return as_vectors("query vectors", self._run(tensors), self.facts.dim)


def open_tower(
    folder: str | os.PathLike[str], *, threads: int | None = None, device: str = "auto"
) -> ServedTower:
    """Open the tower that ``save_served_tower`` wrote into ``folder``.

    Parameters
    ----------
    threads
        That one call of the tower may use. None is 1 with ONNX Runtime: a server runs several
        requests at a time, and a tower's products are too small to be worth sharing out.
        TensorFlow has one number for the whole process, which None leaves as it is.
    device
        ``"cpu"``; ``"cuda"``, an error where the runtime has none; ``"auto"`` is CUDA where the
        runtime that is installed has it, else the CPU.

    Raises
    ------
    ModuleNotFoundError
        ONNX Runtime or TensorFlow is not installed: says which, and how to get it.
    RuntimeError
        TensorFlow runs already with another number of threads.
    ValueError
        ``folder`` holds no served tower, or a newer one; ``device`` is unknown or not there.
    """
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
    threads = None if threads is None else positive_int("threads", threads)
    folder = Path(folder)
    facts = TowerFacts.load(folder)
    opened = _open_onnx if facts.kind == ONNX else _open_saved_model
    try:
        tower = opened(facts, folder, threads, device)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("onnxruntime", "tensorflow"):
            raise
        wanted = " ".join(facts.requires)
        raise ModuleNotFoundError(
            f"{folder}: this tower needs {error.name}, which is not installed: "
            f"pip install '{wanted}'",
            name=error.name,
        ) from error
    logger.info("%s: the query tower runs on %s", folder, tower.runtime)
    return tower


def check_tensors(features: tuple[TowerFeature, ...], tensors: Tensors) -> int:
    """The rows of ``tensors``; raises what :meth:`ServedTower.vectors` promises of them."""
    names = {name for feature in features for name in feature.tensor_names}
    if names != tensors.keys():
        raise ValueError(f"tensors: expected {sorted(names)}, got {sorted(tensors)}")
    lengths = {feature.name: _checked_rows(feature, tensors) for feature in features}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"tensors: expected the same number of rows in all, got {lengths}")
    return next(iter(lengths.values()))


def _checked_rows(feature: TowerFeature, tensors: Tensors) -> int:
    """The rows of a feature's tensors, which are looked at one by one."""
    values = tensors[feature.tensor_names[0]]
    _check_dtype(feature.tensor_names[0], values, feature.dtype)
    width = (feature.length,) if feature.length else ()
    if values.ndim != 1 + len(width) or values.shape[1:] != width:
        raise ValueError(
            f"{feature.tensor_names[0]}: expected shape {('n', *width)}, got {values.shape}"
        )
    if feature.length is not None:
        return len(values)
    name = feature.tensor_names[1]
    offsets = tensors[name]
    _check_dtype(name, offsets, "int32")
    if offsets.ndim != 1 or not len(offsets) or offsets[0] or offsets[-1] != len(values):
        raise ValueError(f"{name}: expected shape (n + 1,), running from 0 to {len(values)}")
    if (np.diff(offsets) < 0).any():
        raise ValueError(f"{name}: expected never to fall")
    return len(offsets) - 1


def _check_dtype(name: str, tensor: NDArray[Any], dtype: str | None) -> None:
    if tensor.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {tensor.dtype}")


def _open_onnx(facts: TowerFacts, folder: Path, threads: int | None, device: str) -> ServedTower:
    import onnxruntime

    known = onnxruntime.get_available_providers()
    has_cuda = "CUDAExecutionProvider" in known
    if device == "cuda" and not has_cuda:
        raise ValueError(f"device: expected CUDA in ONNX Runtime (onnxruntime-gpu), got {known}")
    providers = ["CPUExecutionProvider"]
    if has_cuda and device != "cpu":
        providers.insert(0, "CUDAExecutionProvider")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / ONNX_FILE), sess_options=options, providers=providers
    )
    runs_on = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    if device == "cuda" and runs_on != "cuda":
        raise ValueError("device: expected CUDA, which ONNX Runtime has, to start; it did not")
    # A converted tower has no inputs for columns that play no part in its vectors.
    names = [taken.name for taken in session.get_inputs()]

    def run(tensors: Tensors) -> NDArray[Any]:
        vectors: NDArray[Any] = session.run([OUTPUT], {name: tensors[name] for name in names})[0]
        return vectors

    return ServedTower(facts, run, f"onnxruntime {onnxruntime.__version__} on {runs_on}")


def _open_saved_model(
    facts: TowerFacts, folder: Path, threads: int | None, device: str
) -> ServedTower:
    import tensorflow as tf

    _use_threads(tf.config.threading, threads)
    has_cuda = bool(tf.config.list_physical_devices("GPU"))
    if device == "cuda" and not has_cuda:
        raise ValueError("device: expected a GPU that TensorFlow sees, got none")
    runs_on = "cuda" if has_cuda and device != "cpu" else "cpu"
    place = "/GPU:0" if runs_on == "cuda" else "/CPU:0"
    with tf.device(place):
        loaded = tf.saved_model.load(str(folder / SAVED_MODEL_FOLDER))

    def run(tensors: Tensors) -> NDArray[Any]:
        with tf.device(place):
            given = {name: tf.constant(tensor) for name, tensor in tensors.items()}
            # Looked up in what was loaded, whose weights go when it does.
            vectors: NDArray[Any] = loaded.signatures[_SIGNATURE](**given)[OUTPUT].numpy()
        return vectors

    return ServedTower(facts, run, f"tensorflow {tf.__version__} on {runs_on}")


def _use_threads(threading: Any, threads: int | None) -> None:
    if threads is not None and threading.get_intra_op_parallelism_threads() != threads:
        threading.set_intra_op_parallelism_threads(threads)
