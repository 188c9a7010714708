"""A small made-up Ali-CCP, and raw files to be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workflows.aliccp.simulation.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(600, 80, seed=5)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines as raw files of the training part, or another; returns their folder."""

    def write_lines(
        skeleton: list[str], common: list[str], end: str = "\n", part: str = "train"
    ) -> Path:
        for name, lines in (("sample_skeleton", skeleton), ("common_features", common)):
            text = "".join(line + end for line in lines)
            (tmp_path / f"{name}_{part}.csv").write_bytes(text.encode("latin-1"))
        return tmp_path

    return write_lines
