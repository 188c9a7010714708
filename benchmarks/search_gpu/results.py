"""The rows of this run and of earlier ones, in a JSON file."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.search_gpu.grid import Setting
from benchmarks.search_gpu.rows import Row


class Results:
    """The rows of this run and of earlier ones, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._document: dict[str, Any] = {"rows": [], "openings": []}
        if path.exists():
            self._document = json.loads(path.read_text())

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order they were measured in."""
        return self._document["rows"]

    def settings(self) -> set[Setting]:
        """What was measured, and not found wrong."""
        return {_setting_of(row) for row in self.rows if row["error"] is None}

    def replace(self, setting: Setting, rows: list[Row]) -> None:
        """Put ``rows`` in the place of any of that setting, and save."""
        self.rows[:] = [row for row in self.rows if _setting_of(row) != setting] + rows
        self._save()

    def add_opening(self, opening: dict[str, Any]) -> None:
        """Keep what opening an index took; a later measurement replaces it."""
        openings = self._document["openings"]
        openings[:] = [o for o in openings if o["index"] != opening["index"]] + [opening]
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._document, indent=1))
        os.replace(temporary, self.path)


def _setting_of(row: Row) -> Setting:
    return Setting(**{field.name: row[field.name] for field in fields(Setting)})
