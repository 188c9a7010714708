"""The items' own vectors on the device, for a second look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.index.index import Index
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.rounding import round_up

UPLOAD_BYTES = 64 << 20
"""Vectors that are copied to the device at a time."""
QUAD_BYTES = 16
"""What a lane reads of a vector at a time: ``QUAD_BYTES`` of ``cuda/refine.cu``."""
MAX_LANES = 8
"""Lanes that share a vector at most: they read a cache line, 128 bytes, together."""


@dataclass(frozen=True, eq=False)
class DeviceVectors:
    """Vectors in the order of the ids: arrays of the device's ``xp``.

    An item's place in that order is its rank. A search that looks twice takes ranks where others
    take ids: ties by rank are ties by id, and a rank is where the vector lies.
    """

    values: Any
    """(n_items, row_bytes) uint8: float16 or int8 values, zeros at the end."""
    scales: Any
    """(n_items,) float32, by which a row's values are multiplied."""
    sorted_ids: Any
    """(n_items,) int64."""
    ranks: Any
    """(n_items,) int64: of the item in each row of the index."""
    is_half: bool
    """Whether the values are float16, or else int8."""

    @property
    def nbytes(self) -> int:
        """Device memory of all arrays."""
        arrays = self.values, self.scales, self.sorted_ids, self.ranks
        return sum(int(array.nbytes) for array in arrays)

    @property
    def n_quads(self) -> int:
        """Of 16 bytes, in a row."""
        return int(self.values.shape[1]) // QUAD_BYTES

    @property
    def n_lanes(self) -> int:
        """Lanes that share a vector: a power of two, of which each has something to read."""
        return min(MAX_LANES, 1 << (self.n_quads.bit_length() - 1))

    @property
    def query_bytes(self) -> int:
        """Shared memory for a query, as long as a row: float32."""
        return 4 * self.n_quads * QUAD_BYTES // (2 if self.is_half else 1)

    def ranks_of(self, xp: Any, item_ids: Any) -> Any:
        """(n,) int64 ranks of ``item_ids``, −1 for those that the index does not hold."""
        ranks = xp.searchsorted(self.sorted_ids, item_ids)
        ranks[ranks == len(self.sorted_ids)] = 0
        ranks[self.sorted_ids[ranks] != item_ids] = -1
        return ranks


def open_vectors(index: Index, device: Device) -> DeviceVectors | None:
    """Copy the vectors of ``index`` to the device; None where it holds none."""
    vectors = index.vectors
    if vectors is None:
        return None
    xp, (n_items, row_bytes) = device.xp, (len(vectors), row_bytes_of(index))
    order = np.argsort(index.item_ids)
    ranks = np.empty(n_items, np.int64)
    ranks[order] = np.arange(n_items)
    width = index.dim * vectors.values.itemsize
    values = xp.zeros((n_items, row_bytes), np.uint8)
    rows = max(1, UPLOAD_BYTES // row_bytes)
    for start in range(0, n_items, rows):
        part = np.zeros((min(rows, n_items - start), row_bytes), np.uint8)
        part[:, :width] = vectors.values[order[start : start + rows]].view(np.uint8)
        values[start : start + rows] = xp.asarray(part)
    return DeviceVectors(
        values=values,
        scales=xp.asarray(vectors.row_scales[order]),
        sorted_ids=xp.asarray(index.item_ids[order]),
        ranks=xp.asarray(ranks),
        is_half=vectors.dtype == "float16",
    )


def vector_bytes(index: Index) -> int:
    """Device memory that :func:`open_vectors` takes at most, what it needs only then included."""
    if index.vectors is None:
        return 0
    row_bytes = row_bytes_of(index)
    staging = min(UPLOAD_BYTES, index.n_items * row_bytes)
    return index.n_items * (row_bytes + 4 + 8 + 8) + staging


def row_bytes_of(index: Index) -> int:
    """A vector's on the device: those of ``index``, up to the next multiple of 16."""
    assert index.vectors is not None
    return round_up(index.dim * index.vectors.values.itemsize, QUAD_BYTES)
