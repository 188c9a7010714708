"""Importing the package brings in NumPy and nothing else."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def modules_after(statement: str) -> set[str]:
    """The top-level modules, of those that do not come with Python, after ``statement``."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(run(code).split()) - set(sys.stdlib_module_names)


def test_import_brings_in_numpy_alone() -> None:
    # pandas, PyArrow, Faiss and matplotlib each take longer than all else together.
    added = modules_after("import merlin_poeem") - modules_after("import numpy")
    assert added == {"merlin_poeem"}


def test_public_names_exist() -> None:
    run(
        "import merlin_poeem as m; assert all(hasattr(m, name) for name in m.__all__); "
        "assert m.__version__"
    )
