"""What peers are opened on."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.catalogs import Catalog


@dataclass(frozen=True)
class Material:
    """What peers are opened on."""

    catalog: Catalog
    vectors: Any
    """(n_items, dim) float32, all items, on the device."""
    xp: ModuleType
    """CuPy; NumPy where the device is emulated."""
    stream: int
    """The current CUDA stream."""

    def cupy(self) -> ModuleType:
        """CuPy; ``RuntimeError`` where the device is emulated."""
        if self.xp.__name__ != "cupy":
            raise RuntimeError("runs on a GPU alone, and the device is emulated")
        return self.xp
