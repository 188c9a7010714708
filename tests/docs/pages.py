"""The pages of docs/: their Python, and running it as a reader does, block after block."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))

# The first line of a block that a reader runs and no test does.
NOT_RUN = "# not run by the tests: "


def python_blocks(page: str) -> list[str]:
    """The Python of a page, each block with the lines above it, so that errors name its lines."""
    text = (DOCS / page).read_text()
    blocks = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in blocks]


def is_run(block: str) -> bool:
    return not block.lstrip("\n").startswith(NOT_RUN)


def run_page(
    page: str, folder: Path, names: dict[str, Any], instead: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a page's blocks in ``folder``, one after the other; the names that they leave.

    ``names`` are those that the page takes for granted. ``instead`` of what can't be had here is
    what a test has; each has to be there.
    """
    blocks = [block for block in python_blocks(page) if is_run(block)]
    assert blocks, f"{page}: expected Python to run, got none"
    for theirs, ours in (instead or {}).items():
        assert any(theirs in block for block in blocks), f"{page}: {theirs} is not there any more"
        blocks = [block.replace(theirs, ours) for block in blocks]
    here = Path.cwd()
    os.chdir(folder)
    try:
        for block in blocks:
            exec(compile(block, str(DOCS / page), "exec"), names)
    finally:
        os.chdir(here)
    return names
