"""What can be built afterwards from ready float vectors, at so many bytes: the ways to choose from.

Data only; :mod:`~benchmarks.quality.faiss_methods`, :mod:`~benchmarks.quality.fit_method` and
:mod:`~benchmarks.quality.scann_method` build them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SIZES = (5, 9, 17, 33)
"""Bytes an item, a scale included where there is one."""
FAISS, FAISS_SCALES = "Faiss", "Faiss + scales"
FIT = "fit"
SCANN = "ScaNN"
FAMILIES = (FAISS, FAISS_SCALES, FIT, SCANN)
PQ_BITS = 8
STRETCH = 0.25
SCANN_BITS = 4


@dataclass(frozen=True)
class Way:
    """One way to build an index."""

    family: str
    size: int
    """Bytes that an item may take, of ``SIZES``."""
    knobs: dict[str, Any] = field(default_factory=dict)
    """What is not as the family has it by default."""

    def __str__(self) -> str:
        told = ", ".join(f"{knob}={value}" for knob, value in self.knobs.items())
        return f"{self.family} ({told})" if told else self.family


def ways(dim: int, size: int) -> Iterator[Way]:
    """Every way for vectors of width ``dim``, the default one of each family first."""
    for family, n_codes in ((FAISS, size), (FAISS_SCALES, size - 1)):
        for rotation in rotations(dim, n_codes):
            for clusters in ({}, {"clusters": "spherical"}):
                yield Way(family, size, {**rotation, **clusters})
    for rotation in ({}, {"rotation": False}):
        for weights in ({}, {"weights": "alike"}):
            yield Way(FIT, size, {**rotation, **weights})
    yield Way(FIT, size, {"stretch": STRETCH})
    for threshold in ({}, {"threshold": 0.1}, {"threshold": None}):
        yield Way(SCANN, size, threshold)


def rotations(dim: int, n_codes: int) -> list[dict[str, Any]]:
    """Ways to cut ``dim`` into ``n_codes``: OPQ to a width that they divide, or as it is.

    The width below loses dimensions, the one above has empty ones; the default is the nearer one.
    """
    below, above = dim // n_codes * n_codes, -(-dim // n_codes) * n_codes
    if below == above:
        return [{}, {"opq": False}]
    widths = [width for width in (below, above) if width]
    default = min(widths, key=lambda width: abs(width - dim))
    return [{}, *({"opq": width} for width in widths if width != default)]


def default_width(dim: int, n_codes: int) -> int:
    """The width that OPQ takes where nothing is said."""
    below, above = dim // n_codes * n_codes, -(-dim // n_codes) * n_codes
    return min((width for width in (below, above) if width), key=lambda width: abs(width - dim))


def size_of(bytes_per_item: float) -> int | None:
    """The least of ``SIZES`` that codes fit into; None where they are larger."""
    return next((size for size in SIZES if bytes_per_item <= size), None)
