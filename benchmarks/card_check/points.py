"""What is timed: sizes of catalogs and searches, the most telling first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["planned", "scan", "bulk"]

DIM, CODE_BYTES = 64, 16


@dataclass(frozen=True)
class Size:
    """A catalog and its index."""

    n_items: int
    n_lists: int
    dim: int = DIM
    code_bytes: int = CODE_BYTES


@dataclass(frozen=True)
class Point:
    """A search to be timed."""

    batch: int
    n_probes: int
    k: int
    way: Way = "planned"
    refine: int = 0
    """Above 0: with a second look at float16 vectors."""

    def __str__(self) -> str:
        look = f", refine {self.refine}" if self.refine else ""
        return f"batch {self.batch}, {self.n_probes} probes, k {self.k}, {self.way}{look}"


SMALL, LARGE = Size(570_000, 1024), Size(4_300_000, 4096)
TINY = Size(1200, 16, 16, 4)

POINTS: dict[Size, list[Point]] = {
    SMALL: [
        Point(1024, 8, 100),
        Point(16384, 8, 100),
        Point(1, 8, 100),
        Point(16384, 8, 100, "bulk"),
        Point(16384, 32, 100, "scan"),
        Point(16384, 32, 100, "bulk"),
        Point(1024, 8, 1000),
        Point(1024, 8, 100, refine=4),
        Point(16384, 8, 100, refine=4),
        Point(1, 8, 100, refine=4),
        Point(1024, 32, 100, refine=4),
    ],
    LARGE: [
        Point(1, 8, 100),
        Point(1024, 8, 100),
        Point(16384, 8, 100),
        Point(32, 8, 100),
        Point(16384, 64, 100, "scan"),
        Point(16384, 64, 100, "bulk"),
        Point(16384, 8, 100, "bulk"),
        Point(16384, 8, 1000),
        Point(4096, 8, 100),
        Point(1024, 64, 100),
        Point(1024, 64, 100, "bulk"),
        Point(1, 64, 100),
        Point(1024, 8, 10),
        Point(16384, 8, 100, refine=4),
        Point(1024, 8, 100, refine=4),
        Point(1024, 8, 10, refine=10),
        Point(1, 8, 100, refine=4),
    ],
}
EMULATED_POINTS: dict[Size, list[Point]] = {
    TINY: [
        Point(1, 4, 10),
        Point(12, 4, 10, "scan"),
        Point(12, 8, 10, "bulk"),
        Point(12, 4, 10, refine=4),
    ]
}

FIT_PROBES = (1, 2, 4, 8, 16, 32, 64)
FIT_BATCH, FIT_K = 1024, 100
CHUNKS = (1024, 2048, 4096, 8192, 16384)
CHUNK_BATCH, CHUNK_PROBES = 16384, 8
