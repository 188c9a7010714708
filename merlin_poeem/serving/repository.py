"""A Triton model repository: its models, their versions, and what makes a new one whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from merlin_poeem.atomic_files import check_reachable, new_file, whole_folder

CONFIG_FILE, MODEL_FILE, INSTALL_FILE = "config.pbtxt", "model.py", "INSTALL.txt"
MODEL = '''"""Loaded by Triton's Python backend."""

from merlin_poeem.serving.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
INSTALL = """The Python environment of Triton's Python backend needs:

{packages}

On Triton before 24.11 also: pip install 'numpy<2' 'pyarrow<26'
Its backend reads texts wrongly with NumPy 2, and newer PyArrow wants that.
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


@contextmanager
def new_version(
    repository: str | os.PathLike[str], name: str, config: str, *, module: str | None = None
) -> Iterator[tuple[int, Path]]:
    """The next version of a model and its folder, which is there whole or not at all.

    ``config`` is the text of ``config.pbtxt``, for all versions: ``ValueError`` where those that
    are there have another. ``module`` of this room holds the class that Triton loads; None is an
    ensemble, which has none. Raises ``ValueError`` on a ``name`` that is none of a folder.
    """
    check_reachable(repository)
    check_name(name)
    model = Path(repository).resolve() / name
    check_config(model, config)
    model.mkdir(parents=True, exist_ok=True)
    version = 1 + max(versions_of(model), default=0)
    try:
        with whole_folder(model / str(version)) as folder:
            yield version, folder
            if module is not None:
                (folder / MODEL_FILE).write_text(MODEL.format(module=module))
            if not (model / CONFIG_FILE).exists():
                with new_file(model / CONFIG_FILE) as file:
                    file.write(config.encode())
    except BaseException:
        if not any(model.iterdir()):
            model.rmdir()  # a folder without a model keeps Triton from starting
        raise


def versions_of(model: Path) -> list[int]:
    """The versions in a model's folder, rising."""
    names = [entry.name for entry in model.iterdir()] if model.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def check_name(name: str) -> None:
    """``ValueError`` where ``name`` is no name of a folder."""
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"name: expected the name of a model, got {name!r}")


def check_config(model: Path, config: str) -> None:
    """``ValueError`` where a model is there with another configuration."""
    path = model / CONFIG_FILE
    if path.exists() and path.read_text() != config:
        raise ValueError(
            f"{path}: expected the tensors and options of the versions that are there, got others; "
            "export under another name, or to another repository"
        )


def write_install(model: Path, requires: Sequence[str]) -> None:
    """``INSTALL.txt`` of a model: what the server needs."""
    packages = "\n".join(f"    pip install {one!r}" for one in requires)
    (model / INSTALL_FILE).write_text(INSTALL.format(packages=packages))
