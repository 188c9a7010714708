"""What a demo leaves behind: its table on the screen, its rows and their picture in files."""

from __future__ import annotations

from pathlib import Path

from merlin_poeem.plots import plot_quality
from workflows.comparison import Comparison


def show_and_save(comparison: Comparison, quality: str, title: str, path: Path) -> None:
    """Print the table; write its rows to ``{path}.json`` and draw ``quality`` in ``{path}.png``."""
    rows, picture = path.with_suffix(".json"), path.with_suffix(".png")
    print(comparison.table())
    comparison.save(rows)
    plot_quality(comparison.rows, quality, title, picture)
    print(f"Saved {rows} and {picture}")
