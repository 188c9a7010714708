"""What peers are opened on."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.catalogs import Catalog
from benchmarks.device_catalogs import DeviceCatalog


@dataclass(frozen=True)
class Material:
    """What peers are opened on."""

    catalog: Catalog | DeviceCatalog
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


def current_stream(xp: ModuleType) -> int:
    """The address of the current CUDA stream; 0 where the device is emulated."""
    return int(xp.cuda.get_current_stream().ptr) if xp.__name__ == "cupy" else 0
