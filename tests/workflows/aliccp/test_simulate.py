"""The command that writes a made-up Ali-CCP."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from merlin_poeem.datasets.aliccp.rows import read
from workflows.aliccp.simulate import main


@pytest.mark.parametrize("file_format", ["parquet", "raw"])
def test_command(tmp_path: Path, file_format: str) -> None:
    options = ["--rows", "2000", "--items", "500", "--users", "30", "--format", file_format]
    main(["--to", str(tmp_path), *options])
    assert [pa.concat_tables(read(tmp_path, part)).num_rows for part in ("train", "test")] == [
        2000,
        1000,
    ]
    assert pq.read_table(tmp_path / "items").num_rows == 500
