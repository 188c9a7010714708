"""A Triton model repository: its models, their versions, and what makes a new one whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from merlin_poeem.atomic_files import check_reachable, fsync_directory, new_file, whole_folder
from merlin_poeem.index.copies import copy_index, fingerprint_of
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.search.searcher import BACKENDS
from merlin_poeem.serving.config import Serving, config_text
from merlin_poeem.serving.inputs import InputSpec
from merlin_poeem.serving.requests import Limits
from merlin_poeem.serving.retrieval import QUERY_VECTOR
from merlin_poeem.serving.spec import INDEX, TOWER, ServingSpec

CONFIG_FILE, MODEL_FILE, INSTALL_FILE = "config.pbtxt", "model.py", "INSTALL.txt"
MODEL = '''"""Loaded by Triton's Python backend."""

from merlin_poeem.serving.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
REQUIRES = ["merlin-poeem[cpu]"]
INSTALL = """The Python environment of Triton's Python backend needs:

{packages}

On Triton before 24.11 also numpy<2: its backend reads texts wrongly with NumPy 2.
"""


@dataclass(frozen=True)
class ServedModel:
    """A version of a model in a Triton model repository."""

    repository: Path
    """What ``tritonserver --model-repository`` takes."""
    name: str
    """The model that requests are sent to."""
    version: int
    requires: list[str]
    """What ``pip install`` takes at the server; ``INSTALL.txt`` says it too."""

    @property
    def folder(self) -> Path:
        """Of the version."""
        return self.repository / self.name / str(self.version)


@dataclass(frozen=True)
class SavedTower:
    """What was saved of a query tower into a version."""

    inputs: list[InputSpec]
    dim: int
    requires: list[str]


def export_search(
    index_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str = "search",
    k: int = 100,
    largest_k: int = 1000,
    titles: str | None = None,
    backend: str = "auto",
    serving: Serving | None = None,
) -> ServedModel:
    """Export a saved index as a Triton model that is asked with query vectors.

    Requests hold ``query_vector``, (n, dim) float32. For requests of features see
    :func:`merlin_poeem.blocks.export_retrieval`, which exports the query tower with it. Neither
    TensorFlow nor Merlin is needed, here or at the server.

    Parameters
    ----------
    index_path
        The directory of a saved index, which is copied.
    path
        The model repository. Where it holds the model already, the next version is made beside the
        others; its tensors have to be the same.
    name
        Of the model.
    k, largest_k
        Candidates a row where the request names none, and the most that it may ask for.
    titles
        A column of the index's item table that answers hold beside the ids.
    backend
        As of :func:`~merlin_poeem.open_searcher`, chosen at the server.
    serving
        How Triton runs it: :class:`Serving`.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``index_path``.
    ValueError
        What is there is no index; ``titles`` are no column of its item table; the model is there
        with other tensors; an option is out of range.
    """
    return write_version(
        index_path,
        path,
        name=name,
        limits=limits_of(k, largest_k),
        titles=titles,
        backend=backend,
        serving=serving or Serving(),
    )


def limits_of(k: int, largest_k: int) -> Limits:
    """Checked: ``ValueError`` unless ``1 <= k <= largest_k``."""
    k, largest_k = positive_int("k", k), positive_int("largest_k", largest_k)
    if k > largest_k:
        raise ValueError(f"k: expected at most largest_k, {largest_k}; got {k}")
    return Limits(k, largest_k)


def write_version(
    index_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str,
    limits: Limits,
    titles: str | None,
    backend: str,
    serving: Serving,
    save_tower: Callable[[Path], SavedTower] | None = None,
) -> ServedModel:
    """The next version of a model, whole or not at all; ``save_tower`` fills a folder."""
    check_reachable(path)
    check_name(name)
    index = load_index(index_path)
    check_served(index, titles, backend)
    model = Path(path).resolve() / name
    version = 1 + max(versions_of(model), default=0)
    model.mkdir(parents=True, exist_ok=True)
    with whole_folder(model / str(version)) as folder:
        copy_index(os.fspath(index_path), fingerprint_of(index_path), folder / INDEX)
        tower = None if save_tower is None else save_tower(folder / TOWER)
        if tower is not None and tower.dim != index.dim:
            raise ValueError(f"tower: expected dim {index.dim}, as the index has; got {tower.dim}")
        inputs = [InputSpec(QUERY_VECTOR, "float32", index.dim)] if tower is None else tower.inputs
        spec = ServingSpec(
            inputs=inputs,
            limits=limits,
            has_keys=index.has_item_keys,
            titles=titles,
            has_tower=tower is not None,
            backend=backend,
            created=time.time(),
            requires=[*REQUIRES, *([] if tower is None else tower.requires)],
        )
        spec.save(folder)
        (folder / MODEL_FILE).write_text(MODEL)
        _write_config(model, name, spec, serving)
    return ServedModel(Path(path), name, version, spec.requires)


def versions_of(model: Path) -> list[int]:
    """The versions in a model's folder, rising."""
    names = [entry.name for entry in model.iterdir()] if model.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def check_name(name: str) -> None:
    """``ValueError`` where ``name`` is no name of a folder."""
    if not name or Path(name).name != name:
        raise ValueError(f"name: expected the name of a model, got {name!r}")


def check_served(index: Index, titles: str | None, backend: str) -> None:
    """``ValueError`` where the server would fail: it is told here, before anything is written."""
    if backend not in (*BACKENDS, "auto"):
        raise ValueError(
            f"backend: expected one of {', '.join((*BACKENDS, 'auto'))}; got {backend!r}"
        )
    if titles is not None:
        columns = [] if index.item_table is None else list(index.item_table.columns)
        if titles not in columns:
            raise ValueError(
                f"titles: expected a column of the item table, {columns}; got {titles!r}"
            )


def _write_config(model: Path, name: str, spec: ServingSpec, serving: Serving) -> None:
    """The configuration of all versions; ``ValueError`` where one that is there has others."""
    text = config_text(
        name,
        spec.inputs,
        has_keys=spec.has_keys,
        has_titles=spec.titles is not None,
        serving=serving,
    )
    path = model / CONFIG_FILE
    if not path.exists():
        with new_file(path) as file:
            file.write(text.encode())
        packages = "\n".join(f"    pip install {one!r}" for one in spec.requires)
        (model / INSTALL_FILE).write_text(INSTALL.format(packages=packages))
        fsync_directory(model)
    elif path.read_text() != text:
        raise ValueError(
            f"{path}: expected the tensors and options of the versions that are there, got others; "
            "export under another name, or to another repository"
        )
