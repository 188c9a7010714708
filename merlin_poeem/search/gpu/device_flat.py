"""A flat index on the device, in the arrays that the kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.device_vectors import QUAD_BYTES, UPLOAD_BYTES
from merlin_poeem.search.gpu.filters import ItemGroups
from merlin_poeem.search.gpu.flat_plan import MAX_ROWS, padded_rows
from merlin_poeem.search.gpu.rounding import round_up

GROUP = 32
"""Items whose vectors lie together: see ``place_of_quad`` of ``cuda/flat.cu``."""


@dataclass(frozen=True, eq=False)
class DeviceFlat:
    """What the kernels read of a flat index: arrays of the device's ``xp``, items in its order."""

    vectors: Any
    """(n_groups, n_quads, 32, 16) uint8: a quad is 16 bytes of a vector, and of 32 items each lies
    together. Zeros beyond the vectors, and in the rows that fill the last block."""
    scales: Any
    """(n_rows,) float32, by which a row's values are multiplied; None: 1."""
    origin: Any
    """(dim,) float32 that queries are counted from, or None."""
    items: ItemGroups
    value_bytes: int
    """Of a value of a vector: 4 for float32, 2 for float16, 1 for int8."""
    is_l2: bool

    @property
    def n_bytes(self) -> int:
        """Device memory of all arrays."""
        arrays = self.vectors, self.scales, self.origin, self.items.item_ids
        return sum(int(array.nbytes) for array in arrays if array is not None)


def open_flat(index: FlatIndex, device: Device) -> DeviceFlat:
    """Copy ``index`` to the device, and arrange its vectors.

    Raises
    ------
    ValueError
        More items than the kernels have numbers for.
    MemoryError
        An index larger than the device's free memory, before anything is allocated.
    """
    if index.n_items > MAX_ROWS:
        raise ValueError(f"index: expected at most {MAX_ROWS} items, got {index.n_items}")
    needed = flat_bytes(index)
    if needed > device.free_bytes():
        raise MemoryError(
            f"index: expected at most {device.free_bytes()} bytes, the free memory of "
            f"{device.card.name}; this one needs {needed}"
        )
    xp, stored = device.xp, index.vectors
    scales = None
    if stored.scales is not None:
        scales = xp.zeros(padded_rows(index.n_items), np.float32)
        scales[: index.n_items] = xp.asarray(stored.scales)
    return DeviceFlat(
        vectors=_arranged(index, device),
        scales=scales,
        origin=None if stored.origin is None else xp.asarray(stored.origin),
        items=ItemGroups.of_one_list(xp, xp.asarray(index.item_ids)),
        value_bytes=stored.values.itemsize,
        is_l2=index.metric == "l2",
    )


def flat_bytes(index: FlatIndex) -> int:
    """Device memory that :func:`open_flat` takes at most, what it needs only then included."""
    n_rows, row_bytes = padded_rows(index.n_items), row_bytes_of(index)
    per_row = row_bytes + (0 if index.vectors.scales is None else 4)
    origin = 0 if index.vectors.origin is None else index.vectors.origin.nbytes
    staging = max(GROUP * row_bytes, min(UPLOAD_BYTES, n_rows * row_bytes))
    return n_rows * per_row + 8 * index.n_items + origin + staging


def row_bytes_of(index: FlatIndex) -> int:
    """A vector's on the device: up to the next multiple of 16."""
    return round_up(index.dim * index.vectors.values.itemsize, QUAD_BYTES)


def _arranged(index: FlatIndex, device: Device) -> Any:
    """``vectors`` of a :class:`DeviceFlat`, copied part by part."""
    xp, values, n_quads = device.xp, index.vectors.values, row_bytes_of(index) // QUAD_BYTES
    width = index.dim * values.itemsize
    n_groups = padded_rows(index.n_items) // GROUP
    vectors = xp.zeros((n_groups, n_quads, GROUP, QUAD_BYTES), np.uint8)
    groups = max(1, UPLOAD_BYTES // (GROUP * n_quads * QUAD_BYTES))
    for start in range(0, -(-index.n_items // GROUP), groups):
        rows = values[start * GROUP : (start + groups) * GROUP]
        part = np.zeros((round_up(len(rows), GROUP), n_quads * QUAD_BYTES), np.uint8)
        part[: len(rows), :width] = rows.view(np.uint8)
        grouped = part.reshape(-1, GROUP, n_quads, QUAD_BYTES).transpose(0, 2, 1, 3)
        vectors[start : start + len(grouped)] = xp.asarray(np.ascontiguousarray(grouped))
    return vectors
