"""What training leaves behind: a Quantization (how to encode) and ItemCodes (the encoded items)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import (
    LARGEST_FLOAT,
    LARGEST_VALUE,
    Float32,
    Int32,
    Int64,
    as_item_ids,
    check_unique,
    check_values,
    owned,
    read_only,
)
from merlin_poeem.quantization.params import MAX_PQ_BITS

MAX_ROTATION_ERROR = 1e-3
# Rotated vectors and residuals may have larger values than the vectors that they come from.
LARGEST_CODEWORD_VALUE = 100 * LARGEST_VALUE
N_SCALES = 256
"""Entries of a scale table: a scale is a byte."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """A trained coarse quantizer, product quantizer and rotation.

    An item x is rotated, ``x_rot = x @ rotation``; put in the list of the nearest coarse centroid;
    and its residual, ``x_rot − centroid``, coded per subspace by the nearest codeword (Jégou et
    al., PAMI 2011; Poeem, SIGIR 2021, section 3). Its arrays are read-only, and copies where the
    ones given could be written to.

    With a ``query_rotation`` the rotated space is also stretched along the directions that queries
    look along, so that what is near there scores alike: see
    :func:`~merlin_poeem.quantization.stretch.stretch`.

    A product quantizer gets directions about right and lengths wrong. With a ``scale_range`` an
    item therefore has a scale too, s = ⟨x, x̂⟩ / ‖x̂‖², and what it is decoded as is s · x̂.

    Raises ``TypeError`` or ``ValueError`` on construction when dtypes or shapes do not fit, values
    are not finite or above 1e17 in size, the rotation is not orthogonal, or not the inverse of the
    transposed query rotation where there is one, or the scale range does not rise from above 0.
    """

    coarse_centroids: Float32
    """(n_lists, dim) float32, in the rotated space."""

    codebook: Float32
    """(pq_dim, pq_book_size, pq_len) float32, in the rotated space."""

    rotation: Float32 | None = None
    """(dim, dim) float32, ``x_rot = x @ rotation``; None is the identity. Orthogonal unless there
    is a ``query_rotation``."""

    encodes_residual: bool = True
    """False where the codes are of ``x_rot`` itself; the lists then only choose what is scanned."""

    scale_range: Float32 | None = None
    """(2,) float32, the lowest and the highest scale above 0; None: items have no scales."""

    query_rotation: Float32 | None = None
    """(dim, dim) float32, ``q_rot = q @ query_rotation``: the transposed inverse of ``rotation``,
    so that ⟨q_rot, x_rot⟩ = ⟨q, x⟩. None: queries are rotated as items are."""

    def __post_init__(self) -> None:
        for name, ndim in (("coarse_centroids", 2), ("codebook", 3)):
            array = _float32(name, getattr(self, name), ndim, LARGEST_CODEWORD_VALUE)
            object.__setattr__(self, name, array)
        if self.pq_book_size != 1 << self.pq_bits or not 1 <= self.pq_bits <= MAX_PQ_BITS:
            raise ValueError(
                f"codebook: expected 2**1 to 2**{MAX_PQ_BITS} codewords, a power of two; "
                f"got {self.pq_book_size}"
            )
        if self.pq_dim * self.pq_len != self.dim:
            raise ValueError(
                f"codebook: expected pq_dim * pq_len = dim = {self.dim}, got {self.codebook.shape}"
            )
        if self.rotation is not None:
            object.__setattr__(
                self, "rotation", _float32("rotation", self.rotation, 2, LARGEST_FLOAT)
            )
        self._check_rotations()
        if self.scale_range is not None:
            object.__setattr__(
                self, "scale_range", _float32("scale_range", self.scale_range, 1, LARGEST_FLOAT)
            )
            _check_scale_range(self.scale_range)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.coarse_centroids.shape[1])

    @property
    def n_lists(self) -> int:
        """Number of coarse centroids."""
        return int(self.coarse_centroids.shape[0])

    @property
    def pq_dim(self) -> int:
        """Number of subspaces."""
        return int(self.codebook.shape[0])

    @property
    def pq_book_size(self) -> int:
        """Codewords per subspace."""
        return int(self.codebook.shape[1])

    @property
    def pq_len(self) -> int:
        """Width of a subspace."""
        return int(self.codebook.shape[2])

    @property
    def pq_bits(self) -> int:
        """Bits of one code."""
        return self.pq_book_size.bit_length() - 1

    @property
    def code_dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """uint8 up to 8 bits, uint16 above."""
        return np.dtype(np.uint8) if self.pq_bits <= 8 else np.dtype(np.uint16)

    @property
    def has_scales(self) -> bool:
        """Whether items have scales."""
        return self.scale_range is not None

    @cached_property
    def scale_table(self) -> Float32:
        """(256,) float32: entry 0 is 0, the others rise geometrically over ``scale_range``.

        ``ValueError`` where items have no scales.
        """
        if self.scale_range is None:
            raise ValueError("scale_table: expected a quantization with a scale_range, got none")
        low, high = self.scale_range.astype(np.float64)
        grid = np.geomspace(low, high, N_SCALES - 1)
        return read_only(np.concatenate([[0.0], grid]).astype(np.float32))

    @property
    def rotation_of_queries(self) -> Float32 | None:
        """(dim, dim) float32, what a search multiplies queries with; None is the identity."""
        return self.rotation if self.query_rotation is None else self.query_rotation

    def rotate(self, vectors: Float32) -> Float32:
        """Raw (n, dim) float32 vectors of items into the rotated space."""
        return vectors if self.rotation is None else vectors @ self.rotation

    def rotate_queries(self, queries: Float32) -> Float32:
        """Raw (n, dim) float32 queries into the rotated space."""
        matrix = self.rotation_of_queries
        return queries if matrix is None else queries @ matrix

    def rotate_back(self, vectors: Float32) -> Float32:
        """Rotated (n, dim) float32 vectors of items into the raw space."""
        matrix = self.rotation_of_queries  # whose transpose is the inverse of ``rotation``
        return vectors if matrix is None else vectors @ matrix.T

    def _check_rotations(self) -> None:
        if self.query_rotation is None:
            if self.rotation is not None:
                _check_orthogonal(self.rotation, self.dim)
            return
        if self.rotation is None:
            raise ValueError("query_rotation: expected none where there is no rotation; got one")
        object.__setattr__(
            self,
            "query_rotation",
            _float32("query_rotation", self.query_rotation, 2, LARGEST_FLOAT),
        )
        _check_inverse(self.rotation, self.query_rotation, self.dim)


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """Encoded items, in any order: what a trained model exports.

    Its arrays are read-only, and copies where the ones given could be written to.

    Raises ``TypeError`` or ``ValueError`` on construction when lengths differ, ids repeat, list
    ids or codes are negative, or scales are no bytes.
    """

    item_ids: Int64
    """(n,) int64, each once."""

    list_ids: Int32
    """(n,) int32, the coarse list of each item."""

    codes: NDArray[np.unsignedinteger]
    """(n, pq_dim) uint8 (uint16 above 8 bits), one code per subspace, not packed."""

    scales: NDArray[np.uint8] | None = None
    """(n,) uint8, entries of the ``scale_table``; None with a quantization without scales."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "item_ids", owned(as_item_ids("item_ids", self.item_ids)))
        check_unique("item_ids", self.item_ids)
        n_items = len(self.item_ids)
        list_ids, codes = np.asarray(self.list_ids), np.asarray(self.codes)
        if not np.issubdtype(list_ids.dtype, np.integer) or list_ids.shape != (n_items,):
            raise ValueError(
                f"list_ids: expected integers of shape ({n_items},), "
                f"got {list_ids.dtype} of shape {list_ids.shape}"
            )
        if codes.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"codes: expected uint8 or uint16, got {codes.dtype}")
        if codes.ndim != 2 or len(codes) != n_items:
            raise ValueError(f"codes: expected shape ({n_items}, pq_dim), got {codes.shape}")
        if n_items and (list_ids.min() < 0 or list_ids.max() > np.iinfo(np.int32).max):
            raise ValueError(
                "list_ids: expected values from 0 to 2**31 - 1, "
                f"got {list_ids.min()} to {list_ids.max()}"
            )
        object.__setattr__(self, "list_ids", owned(list_ids, np.int32))
        object.__setattr__(self, "codes", owned(codes))
        if self.scales is not None:
            object.__setattr__(self, "scales", _owned_scales(self.scales, n_items))

    def __len__(self) -> int:
        return len(self.item_ids)

    def check_against(self, quantization: Quantization) -> None:
        """``ValueError`` where list ids, codes or scales are not what ``quantization`` decodes."""
        check_scales(quantization, self.scales)
        if self.codes.shape[1] != quantization.pq_dim:
            raise ValueError(
                f"codes: expected shape (n, {quantization.pq_dim}), got {self.codes.shape}"
            )
        if not len(self):
            return
        if self.list_ids.max() >= quantization.n_lists:
            raise ValueError(
                f"list_ids: expected values below n_lists = {quantization.n_lists}, "
                f"got {self.list_ids.max()}"
            )
        if self.codes.max() >= quantization.pq_book_size:
            raise ValueError(
                f"codes: expected values below pq_book_size = {quantization.pq_book_size}, "
                f"got {self.codes.max()}"
            )


def check_scales(quantization: Quantization, scales: NDArray[np.uint8] | None) -> None:
    """``ValueError`` where only one of the quantization and the items has scales."""
    if quantization.has_scales and scales is None:
        raise ValueError("scales: expected one an item, as the quantization has a scale_range")
    if not quantization.has_scales and scales is not None:
        raise ValueError("scales: expected none, as the quantization has no scale_range; got some")


def pack_codes(codes: NDArray[np.unsignedinteger], pq_bits: int) -> NDArray[np.unsignedinteger]:
    """(n, pq_dim) codes as stored: 4-bit codes two to a byte, the even subspace in the low half."""
    if pq_bits != 4:
        return codes
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    return np.asarray(codes[:, 0::2] | (codes[:, 1::2] << 4), np.uint8)


def unpack_codes(
    packed: NDArray[np.unsignedinteger], pq_dim: int, pq_bits: int
) -> NDArray[np.unsignedinteger]:
    """The inverse of :func:`pack_codes`: (n, pq_dim) codes, one a column."""
    if pq_bits != 4:
        return packed
    codes = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    codes[:, 0::2] = packed & 15
    codes[:, 1::2] = packed >> 4
    return read_only(codes)[:, :pq_dim]


def _float32(name: str, array: Float32, ndim: int, largest: float) -> Float32:
    array = np.asarray(array)
    if array.dtype != np.float32:
        raise TypeError(f"{name}: expected float32, got {array.dtype}")
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"{name}: expected {ndim} dimensions, none empty; got {array.shape}")
    check_values(name, array, largest)
    return owned(array)


def _check_scale_range(scale_range: Float32) -> None:
    if scale_range.shape != (2,):
        raise ValueError(f"scale_range: expected shape (2,), got {scale_range.shape}")
    low, high = scale_range.tolist()
    if not 0 < low < high:
        raise ValueError(f"scale_range: expected 0 < low < high, got {low:.6g} and {high:.6g}")


def _owned_scales(scales: NDArray[np.uint8], n_items: int) -> NDArray[np.uint8]:
    scales = np.asarray(scales)
    if scales.dtype != np.uint8:
        raise TypeError(f"scales: expected uint8, got {scales.dtype}")
    if scales.shape != (n_items,):
        raise ValueError(f"scales: expected shape ({n_items},), got {scales.shape}")
    return owned(scales)


def _check_orthogonal(rotation: Float32, dim: int) -> None:
    error = _distance_from_identity("rotation", rotation, rotation, dim)
    if error > MAX_ROTATION_ERROR:
        raise ValueError(
            f"rotation: expected an orthogonal matrix (max |RᵀR − I| <= {MAX_ROTATION_ERROR}), "
            f"got {error:.2g}"
        )


def _check_inverse(rotation: Float32, query_rotation: Float32, dim: int) -> None:
    _check_square("rotation", rotation, dim)
    error = _distance_from_identity("query_rotation", rotation, query_rotation, dim)
    if error > MAX_ROTATION_ERROR:
        raise ValueError(
            "query_rotation: expected the transposed inverse of the rotation "
            f"(max |RᵀQ − I| <= {MAX_ROTATION_ERROR}), got {error:.2g}"
        )


def _distance_from_identity(name: str, left: Float32, right: Float32, dim: int) -> float:
    _check_square(name, right, dim)
    # In float64, as float32 products of large entries overflow.
    product = left.astype(np.float64).T @ right.astype(np.float64)
    return float(np.abs(product - np.eye(dim)).max())


def _check_square(name: str, matrix: Float32, dim: int) -> None:
    if matrix.shape != (dim, dim):
        raise ValueError(f"{name}: expected shape ({dim}, {dim}), got {matrix.shape}")
