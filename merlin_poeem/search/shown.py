"""How a searcher shows itself: by its backend and its index."""

from __future__ import annotations

from typing import Any


class Shown:
    """A searcher whose ``repr``, as a notebook shows it, says which backend runs on which index."""

    index: Any
    backend: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(backend={self.backend!r}, {self.index!r})"
