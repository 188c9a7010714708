"""Axes that become a file, without a window and without pyplot's state."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def new_axes() -> Axes:
    """The only axes of a new figure."""
    return Figure(figsize=(7.5, 5), layout="constrained").add_subplot()


def save(axes: Axes, path: str | os.PathLike[str]) -> None:
    """Their figure as a file of the kind of ``path``'s ending; folders are made as needed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(path, dpi=150)
