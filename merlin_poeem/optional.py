"""Packages that only some rooms need: what an import says that does not find one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "cpu": "pip install faiss-cpu",
    "cu13": "pip install 'cupy-cuda13x[ctk]' cudf-cu13, or for CUDA 12 the extra cu12",
    "dask": "pip install 'dask[dataframe]' distributed",
    "plots": "pip install matplotlib",
    "serving": "pip install tf2onnx onnxruntime",
    "text": "pip install scikit-learn",
    "train": "uv pip install --require-hashes -r requirements/merlin.txt",
    "systems": "uv pip install --require-hashes -r requirements/merlin.txt",
}
"""What installs the packages of each extra of ``pyproject.toml``."""

MERLINS = ("train", "systems")


@contextmanager
def needed_by(what: str, extra: str) -> Iterator[None]:
    """Imports inside, which ``what`` needs, name ``extra`` where they do not find a package.

    ``ModuleNotFoundError``, an ``ImportError``, then says what installs it. A package that is there
    and fails says itself what is wrong.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "merlin_poeem":
            raise
        raise ModuleNotFoundError(_message(what, extra, error.name), name=error.name) from error


def _message(what: str, extra: str, missing: str) -> str:
    message = f"{what} needs {missing}, which is not installed: {EXTRAS[extra]} (extra: {extra})"
    if extra not in MERLINS:
        return message
    return (
        f"{message}. The file is in the repository of merlin_poeem, for Python 3.10 and 3.11 (this "
        f"is {sys.version_info[0]}.{sys.version_info[1]}); pip refuses some of Merlin's packages, "
        "uv takes them"
    )
