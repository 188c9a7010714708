"""StoredVectors: the items' own vectors beside their codes, in few bytes, for a second look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, owned, read_only
from merlin_poeem.quantization.params import Metric

VectorDtype = Literal["float16", "int8"]
FlatDtype = Literal["float32", "float16", "int8"]

VECTOR_DTYPES: tuple[str, ...] = get_args(VectorDtype)
FLAT_DTYPES: tuple[str, ...] = get_args(FlatDtype)
LARGEST_INT8 = 127
CHUNK_BYTES = 64 << 20

ONE = np.float16(1).view(np.uint16)
FRACTION_SHIFT = 23 - 10
# Sign, five bits of the exponent, and the fraction.
HALF_IN_SINGLE = np.uint32(0x8FFFE000).view(np.int32)
EXPONENT_SHIFT = np.float32(2.0 ** (127 - 15))


@dataclass(frozen=True, eq=False)
class StoredVectors:
    """Vectors (n, dim), each a row of small values times a scale of its own, or as they were.

    Float16 rows have powers of two for scales, and so lose no digits to them, whatever the size of
    a vector; int8 rows what makes their largest value 127; float32 rows have none. In an index
    rotated, so that a row's values are about equally large; under cosine of unit length; under l2
    counted from ``origin``. Arrays are read-only.
    """

    values: NDArray[Any]
    """(n, dim) float32, float16 or int8."""

    scales: Float32 | None
    """(n,) float32; 0 for a row of zeros. None of float32 values."""

    origin: Float32 | None = None
    """(dim,) float32, rotated, that was taken from every vector; None: nothing was."""

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype.name not in FLAT_DTYPES:
            raise TypeError(
                f"values: expected one of {', '.join(FLAT_DTYPES)}; got {values.dtype.name}"
            )
        if values.ndim != 2 or not values.shape[1]:
            raise ValueError(f"values: expected shape (n, dim), got {values.shape}")
        if (self.scales is None) != (values.dtype == np.float32):
            raise ValueError("scales: expected none of float32 values, and one a row of others")
        if self.scales is not None:
            object.__setattr__(self, "scales", _owned_scales(self.scales, len(values)))
        if values.dtype == np.float16 and _sizes(values).max(initial=0) > ONE:
            raise ValueError(
                "values: expected at most 1 in size in float16, got larger or no number"
            )
        object.__setattr__(self, "values", owned(values))

    @classmethod
    def of(
        cls, vectors_rot: Float32, dtype: FlatDtype, origin: Float32 | None = None
    ) -> StoredVectors:
        """Of (n, dim) float32 vectors as a search compares them: rotated, normalised for cosine."""
        if dtype not in FLAT_DTYPES:
            raise ValueError(
                f"store_vectors: expected one of {', '.join(FLAT_DTYPES)}; got {dtype!r}"
            )
        if dtype == "float32":
            moved = vectors_rot if origin is None else read_only(vectors_rot - origin)
            return cls(moved, None, origin)
        values = np.empty(vectors_rot.shape, dtype)
        scales = np.empty(len(vectors_rot), np.float32)
        rows = max(1, CHUNK_BYTES // (12 * vectors_rot.shape[1]))
        for start in range(0, len(vectors_rot), rows):
            chunk = slice(start, start + rows)
            moved = vectors_rot[chunk] if origin is None else vectors_rot[chunk] - origin
            scales[chunk] = _scales_of(moved, dtype)
            divisors = np.where(scales[chunk] > 0, scales[chunk], 1)[:, None]
            quotients = moved / divisors
            values[chunk] = quotients if dtype == "float16" else np.rint(quotients)
        return cls(read_only(values), read_only(scales), origin)

    @classmethod
    def joined(cls, parts: Sequence[StoredVectors]) -> StoredVectors:
        """The rows of all ``parts``, at least one, which have one dtype and one origin."""
        values = read_only(np.concatenate([part.values for part in parts]))
        scales = [part.scales for part in parts if part.scales is not None]
        joined_scales = read_only(np.concatenate(scales)) if scales else None
        return cls(values, joined_scales, parts[0].origin)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> StoredVectors:
        """Some rows, by a slice, numbers or a mask."""
        scales = None if self.scales is None else self.scales[rows]
        return StoredVectors(self.values[rows], scales, self.origin)

    @property
    def dtype(self) -> Any:
        """``"float32"``, ``"float16"`` or ``"int8"``."""
        return self.values.dtype.name

    @property
    def row_scales(self) -> Float32:
        """(n,) float32: ``scales``, 1 where there are none."""
        return np.ones(len(self), np.float32) if self.scales is None else self.scales

    @property
    def nbytes(self) -> int:
        """Of values and scales."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def decoded(self, rows: Any = slice(None)) -> Float32:
        """(n, dim) float32 of some rows, rotated, counted from the origin."""
        values = self.values_of(rows)
        if self.scales is not None:
            values *= self.scales[rows][..., None]
        return values

    def decoded_parts(self) -> Iterator[Float32]:
        """The rows of :meth:`decoded`, in parts that memory has room for."""
        rows = max(1, CHUNK_BYTES // (4 * self.values.shape[1]))
        for start in range(0, len(self), rows):
            yield self.decoded(slice(start, start + rows))

    def values_of(self, rows: Any) -> Float32:
        """(n, dim) float32: the values of some rows, not yet times their scales."""
        is_numbers = isinstance(rows, np.ndarray) and rows.dtype.kind == "i"
        # Three times as fast as indexing, where rows are far apart.
        values = self.values.take(rows, axis=0) if is_numbers else self.values[rows]
        return _widened(values) if self.dtype == "float16" else values.astype(np.float32)

    def scores(self, metric: Metric, query_rot: Float32, rows: Any) -> Float32:
        """(len(rows),) float32: what a rotated (dim,) query, normalised for cosine, makes of rows.

        ⟨q, x⟩, or under l2 −‖q − x‖².
        """
        if metric != "l2":
            # Row by row, so that equal vectors have equal scores.
            return np.asarray(np.einsum("nd,d->n", self.decoded(rows), query_rot), np.float32)
        moved = query_rot if self.origin is None else query_rot - self.origin
        return np.asarray(-((self.decoded(rows) - moved) ** 2).sum(axis=1), np.float32)


def _owned_scales(scales: Any, n_rows: int) -> Float32:
    scales = np.asarray(scales)
    if scales.dtype != np.float32 or scales.shape != (n_rows,):
        raise ValueError(
            f"scales: expected float32 of shape ({n_rows},), got {scales.dtype} of shape "
            f"{scales.shape}"
        )
    return owned(scales)


def _sizes(values: NDArray[np.float16]) -> NDArray[np.uint16]:
    """The bits of float16 values without their signs, which order them by size, NaN as largest."""
    return np.ascontiguousarray(values).view(np.uint16) & np.uint16(0x7FFF)


def _widened(values: NDArray[np.float16]) -> Float32:
    """Finite float16 values as float32: five times as fast as NumPy's own way.

    The exponent and fraction are moved to their place there; what the exponents count from differs
    by 112.
    """
    bits = np.ascontiguousarray(values).view(np.int16).astype(np.int32)
    bits <<= FRACTION_SHIFT
    bits &= HALF_IN_SINGLE
    widened = bits.view(np.float32)
    widened *= EXPONENT_SHIFT
    return widened


def check_vector_dtype(dtype: Any) -> VectorDtype:
    """``dtype`` where it is one that vectors are stored in; ``ValueError`` otherwise."""
    if dtype not in VECTOR_DTYPES:
        raise ValueError(f"store_vectors: expected {' or '.join(VECTOR_DTYPES)}, got {dtype!r}")
    checked: VectorDtype = dtype
    return checked


def _scales_of(vectors: Float32, dtype: VectorDtype) -> Float32:
    largest = np.abs(vectors).max(axis=1, initial=0)
    if dtype == "int8":
        return np.asarray(largest / np.float32(LARGEST_INT8), np.float32)
    _, exponents = np.frexp(largest)
    return np.where(largest > 0, np.ldexp(np.float32(1), exponents), 0).astype(np.float32)
