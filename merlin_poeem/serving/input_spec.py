"""A column that requests hold."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = "string"


@dataclass(frozen=True)
class InputSpec:
    """A column that requests hold."""

    name: str
    dtype: str
    """Of its values: ``"int64"``, ``"float32"`` …, or ``"string"`` for texts."""
    length: int | None = 0
    """Values per row: 0 one, not in a list; None lists of any length; else lists of that many."""
    optional: bool = False
    """Whether a request may lack it."""
