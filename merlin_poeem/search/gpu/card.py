"""What is known of a card before anything runs on it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_GRID_Y = 65535
"""Where the second dimension of a grid ends, on every card."""


@dataclass(frozen=True)
class Card:
    """The limits of a card that a launch has to keep."""

    name: str
    compute_capability: tuple[int, int]
    n_multiprocessors: int
    shared_bytes_per_block: int
    """The most dynamic shared memory that a block may opt in to."""
    shared_bytes_per_multiprocessor: int
    memory_bytes: int
    """All of the device memory."""
