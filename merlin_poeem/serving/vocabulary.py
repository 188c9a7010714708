"""Which number a raw value has: two arrays, sorted by value, that processes of a host share.

They are mapped from their files and not read: ten million ids open at once, and are in memory once.
Of a text is kept a digest of 16 bytes, so that all keys have one width: no two texts that anyone
has seen share one.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Raw values and their numbers."""

    keys: NDArray[Any]
    """(n,) rising: int64, uint64 or float64 values, or S16 digests of texts."""
    codes: NDArray[np.int64]
    """(n,) int64, the number of each."""

    @classmethod
    def of(cls, values: NDArray[Any], codes: NDArray[Any]) -> Vocabulary:
        """Of values (n,), numbers or texts (objects), each once, and their integers (n,).

        Raises ``ValueError`` where a value repeats.
        """
        keys = _keys(values)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        repeats = np.flatnonzero(keys[1:] == keys[:-1])
        if len(repeats):
            raise ValueError(
                f"vocabulary: expected each value once, got {values[order[repeats[0]]]!r} again"
            )
        return cls(keys, codes[order].astype(np.int64))

    def __len__(self) -> int:
        return len(self.keys)

    def codes_of(self, values: NDArray[Any], unknown: int) -> NDArray[np.int64]:
        """(m,) int64 numbers of values (m,), ``unknown`` where one is not in it."""
        if not len(self) or not len(values):
            return np.full(len(values), unknown, np.int64)
        wanted = _keys(values)
        if self.keys.dtype.kind != "S":
            wanted = wanted.astype(self.keys.dtype)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self) - 1)
        codes: NDArray[np.int64] = np.where(
            self.keys[places] == wanted, self.codes[places], unknown
        )
        return codes

    def save(self, folder: Path, name: str) -> None:
        """Write it into ``folder``, as two files."""
        for part, path in zip((self.keys, self.codes), _paths(folder, name), strict=True):
            np.save(path, part, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, name: str) -> Vocabulary:
        """As it was saved under ``name``; raises ``OSError`` where a file is not there."""
        keys, codes = (
            np.load(path, mmap_mode="r", allow_pickle=False) for path in _paths(folder, name)
        )
        return cls(keys, codes)


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}-keys.npy", folder / f"{name}-codes.npy"


def _keys(values: NDArray[Any]) -> NDArray[Any]:
    """What stands for ``values`` in the file: numbers as they are, texts as digests."""
    if values.dtype.kind in "OU":
        return np.array([_digest(text) for text in values.tolist()], f"S{DIGEST_BYTES}")
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    return values if values.dtype == np.uint64 else values.astype(np.int64)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()
