"""Execute notebooks into results/notebooks/, outputs and all; or strip those of a folder.

    python -m scripts.execute_notebooks --environment merlin [--small] [NOTEBOOK ...]
    python -m scripts.execute_notebooks --strip

A notebook names its environment in its metadata, ``{"merlin_poeem": {"environment": "merlin"}}``:
the pinned one or ``current``. The kernel is the interpreter that runs this.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = REPOSITORY / "notebooks"
TIMEOUT_SECONDS = 3600


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels of the interpreter that runs this, whatever kernels are registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """What to start, in the place of what the name of a kernel would find."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="this interpreter", language="python")


def read(path: Path) -> NotebookNode:
    """A notebook, as version 4 of the format."""
    return nbformat.read(path, as_version=4)


def environment_of(notebook: NotebookNode) -> str:
    """``merlin`` or ``current``; ``ValueError`` where the metadata do not say."""
    named = notebook.metadata.get("merlin_poeem", {}).get("environment")
    if named not in ("merlin", "current"):
        raise ValueError(f"metadata: expected merlin_poeem.environment merlin or current: {named}")
    return named


def execute(
    notebook: NotebookNode,
    folder: Path,
    *,
    timeout: int = TIMEOUT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run every cell in place, in ``folder``; ``environment`` is added to this process' own.

    What Jupyter writes beside the notebook goes to a temporary folder, nothing to the home. The
    first cell that fails raises nbclient's ``CellExecutionError``, which holds the traceback.
    """
    with TemporaryDirectory() as scratch:
        config = Config()
        config.KernelManager.connection_file = str(Path(scratch) / "connection.json")
        client = NotebookClient(
            notebook,
            kernel_manager_class=ThisInterpreter,
            timeout=timeout,
            resources={"metadata": {"path": str(folder)}},
            config=config,
        )
        client.execute(env=kernel_environment(scratch) | dict(environment or {}))


def kernel_environment(scratch: str) -> dict[str, str]:
    """This process' environment, with ``workflows`` importable and Jupyter's folders elsewhere."""
    found = dict(os.environ)
    found.pop("MPLBACKEND", None)  # another than the kernel's own shows no pictures
    found["PYTHONPATH"] = os.pathsep.join(
        [str(REPOSITORY), *filter(None, [found.get("PYTHONPATH")])]
    )
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        found[name] = scratch
    found.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return found


def strip(notebook: NotebookNode) -> None:
    """Remove outputs, execution counts and what editors leave behind, in place."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
        merlin_poeem={"environment": environment_of(notebook)},
    )


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", type=Path, nargs="*", help="else all of notebooks/")
    parser.add_argument("--environment", choices=("merlin", "current"), help="only those of this")
    parser.add_argument("--small", action="store_true", help="at the scale of the tests")
    parser.add_argument("--strip", action="store_true", help="clean the files, execute nothing")
    parser.add_argument("--to", type=Path, default=REPOSITORY / "results" / "notebooks")
    options = parser.parse_args(arguments)
    for path in options.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = read(path)
        if options.strip:
            strip(notebook)
            nbformat.write(notebook, path)
        elif options.environment in (None, environment_of(notebook)):
            start = time.perf_counter()
            options.to.mkdir(parents=True, exist_ok=True)
            try:
                small = {"MERLIN_POEEM_SMALL": "1"} if options.small else {}
                execute(notebook, NOTEBOOKS, environment=small)
            finally:  # what a notebook that fails has shown until then is worth reading
                nbformat.write(notebook, options.to / path.name)
            print(f"{options.to / path.name}  {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
