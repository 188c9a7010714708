"""Made-up rows in the raw format: read again, they are the same."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from merlin_poeem.datasets.aliccp.raw import read_raw
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import World
from workflows.aliccp.simulation.write_raw import write_raw

ROWS = 3_000


@pytest.mark.parametrize("part", ["train", "test"])
def test_raw_files_hold_the_same_rows(world: World, tmp_path: Path, part: str) -> None:
    write_raw(world, ROWS, tmp_path / part, part)
    found = pa.concat_tables(read_raw(tmp_path, part, block_bytes=100_000))
    assert found.equals(pa.concat_tables(draw_rows(world, ROWS, part)))
