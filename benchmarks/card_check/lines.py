"""The file of results: JSON lines, each on the disk before the next thing is tried."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Lines:
    """Appends lines of one run to ``path``; several processes may do so at once."""

    def __init__(self, path: Path, run: str) -> None:
        self.path, self.run = path, run
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **line: Any) -> None:
        """Append one line."""
        text = json.dumps({"run": self.run, **line}, default=_as_json) + "\n"
        # One write of an appending descriptor: lines of two processes do not mix.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)

    def read(self) -> list[Line]:
        """The lines of this run."""
        return [line for line in read_lines(self.path) if line["run"] == self.run]


def read_lines(path: Path) -> list[Line]:
    """All whole lines of ``path``: the last one may have been cut off."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "run" in line:
            lines.append(line)
    return lines


def read_last_run(path: Path) -> list[Line]:
    """The lines of the run that was started last."""
    lines = read_lines(path)
    return [line for line in lines if line["run"] == lines[-1]["run"]]


def _as_json(value: Any) -> Any:
    """NumPy's numbers as Python's; anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)
