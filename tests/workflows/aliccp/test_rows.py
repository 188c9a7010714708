"""Rows in whichever form there is; without Merlin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.workflows.aliccp.raw_files import COMMON, SKELETON
from workflows.aliccp.parquet import write_parquet
from workflows.aliccp.rows import read

ROOT = Path(__file__).resolve().parents[3]


def test_read_takes_either(write: Callable[..., Path]) -> None:
    folder = write(SKELETON, COMMON)
    expected = pa.concat_tables(read(folder, "train"))
    write_parquet([expected], folder / "test")
    assert pa.concat_tables(read(folder, "test")).equals(expected)
    with pytest.raises(FileNotFoundError, match=r"or valid/\*\.parquet; got neither"):
        read(folder, "valid")


def test_neither_reading_nor_simulating_needs_merlin() -> None:
    code = (
        "import sys, workflows.aliccp.rows, workflows.aliccp.samples, workflows.aliccp.simulate\n"
        "assert not {'tensorflow', 'merlin', 'nvtabular'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
