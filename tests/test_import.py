"""Importing the package is fast and brings in nothing heavy."""

import subprocess
import sys

HEAVY = {
    "tensorflow",
    "merlin",
    "nvtabular",
    "cupy",
    "cudf",
    "faiss",
    "pandas",
    "pyarrow",
    "matplotlib",
}
MAX_SECONDS = 0.5


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_import_is_fast() -> None:
    # Processor time: what else runs on the machine does not count.
    code = (
        "import time; start = time.process_time(); import merlin_poeem; "
        "print(time.process_time() - start)"
    )
    assert min(float(run(code)) for _ in range(3)) < MAX_SECONDS


def test_import_brings_in_nothing_heavy() -> None:
    loaded = run("import sys, merlin_poeem; print(*{name.split('.')[0] for name in sys.modules})")
    assert not HEAVY & set(loaded.split())


def test_public_names_exist() -> None:
    run(
        "import merlin_poeem as m; assert all(hasattr(m, name) for name in m.__all__); "
        "assert m.__version__"
    )
