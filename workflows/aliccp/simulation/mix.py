"""Numbers without visible order, the same in every run: no draw, so they need no memory."""

from __future__ import annotations

import numpy as np

from workflows.aliccp.simulation.groups import Ints


def mix(numbers: Ints) -> Ints:
    """Whole numbers to others without visible order, one to one: 60 bits (multiply, xor, shift)."""
    mask = np.uint64((1 << 60) - 1)
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) & mask
    mixed ^= mixed >> np.uint64(29)
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9) & mask
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.int64)
