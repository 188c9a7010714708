"""A launch, and what CUDA and the card allow of one."""

from __future__ import annotations

from dataclasses import dataclass

from merlin_poeem.search.gpu.card import Card
from tests.search.gpu.emulation.errors import EmulationError

MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)


@dataclass(frozen=True)
class Launch:
    """A kernel that ran."""

    file: str
    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int


def three(extent: tuple[int, ...]) -> tuple[int, int, int]:
    """x, y and z, those that were not given 1."""
    if not 1 <= len(extent) <= 3:
        raise EmulationError(f"an extent has one to three dimensions, not {extent}")
    x, y, z = (*(int(n) for n in extent), 1, 1)[:3]
    return x, y, z


def check_limits(launch: Launch, card: Card) -> None:
    """``EmulationError`` where CUDA or the card does not launch this."""
    for what, extent, limits in (
        ("grid", launch.grid, MAX_GRID),
        ("block", launch.block, MAX_BLOCK),
    ):
        for axis, size, limit in zip("xyz", extent, limits, strict=True):
            if not 1 <= size <= limit:
                raise EmulationError(f"{what}.{axis} is {size}; the limits are 1 and {limit}")
    n_threads = launch.block[0] * launch.block[1] * launch.block[2]
    if n_threads > MAX_THREADS:
        raise EmulationError(f"{n_threads} threads a block; the limit is {MAX_THREADS}")
    if not 0 <= launch.shared_bytes <= card.shared_bytes_per_block:
        raise EmulationError(
            f"{launch.shared_bytes} bytes of shared memory a block; "
            f"the limit is {card.shared_bytes_per_block}"
        )
