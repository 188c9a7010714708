"""Device memory for intermediate results, taken piece by piece from one allocation."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from merlin_poeem.search.gpu.rounding import round_up

ALIGNMENT = 256
"""Bytes to whose multiples pieces start: what CUDA gives, and more than any kernel asks for."""


class Workspace:
    """One allocation of ``n_bytes`` on the device."""

    def __init__(self, xp: ModuleType, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._memory = xp.empty(n_bytes, np.uint8)

    def pieces(self) -> Pieces:
        """All of it to be taken anew: who had a piece before runs before on the same stream."""
        return Pieces(self._memory)


class Pieces:
    """Arrays one after the other in one memory."""

    def __init__(self, memory: Any) -> None:
        self._memory, self._taken = memory, 0

    def take(self, shape: int | tuple[int, ...], dtype: type[np.generic]) -> Any:
        """An array of what comes next, its content undefined."""
        sizes = (shape,) if isinstance(shape, int) else shape
        start = self._taken
        end = start + math.prod(sizes) * np.dtype(dtype).itemsize
        assert end <= len(self._memory), (end, len(self._memory))
        self._taken = round_up(end, ALIGNMENT)
        return self._memory[start:end].view(dtype).reshape(sizes)
