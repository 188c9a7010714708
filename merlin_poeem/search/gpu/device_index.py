"""An index on the device, in the arrays that the kernels read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.origin import middle_of
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.device_vectors import DeviceVectors, open_vectors, vector_bytes
from merlin_poeem.search.gpu.filters import ItemGroups
from merlin_poeem.search.gpu.index_shape import (
    TILE_ITEMS,
    IndexShape,
    codes_per_byte,
    index_shape,
)
from merlin_poeem.search.gpu.shared_memory import BOOK_ROWS, THREADS, check_dim

UPLOAD_BYTES = 64 << 20
"""Packed codes that are copied to the device at a time."""


@dataclass(frozen=True, eq=False)
class DeviceIndex:
    """What the kernels read of an index: arrays of the device's ``xp``.

    Queries and centroids of an ``l2`` index are relative to ``origin``, as distances are unchanged
    when all is moved, and more exact the shorter the vectors.
    """

    shape: IndexShape
    metric: np.int32
    """Position in ``METRICS``, as in ``scorer.cuh``."""
    score_metric: np.int32
    """The same of items' scores: with scales the cosine's, that is with a factor an item."""
    rotation: Any
    """(dim, dim) float32, or None."""
    origin: Any
    """(dim,) float32 in the rotated space, or None."""
    list_table: Any
    """(dim, padded_lists) float32: its product with a query, times ``list_factors``, plus
    ``list_biases``, scores the lists. Zeros beyond them."""
    list_factors: Any
    """(padded_lists,) float32, or None: 1."""
    list_biases: Any
    """(padded_lists,) float32, or None: 0."""
    has_bases: np.int32
    """1 where the product itself is the list's share in its items' scores; 0 where the list has
    none, and for ``l2``."""
    centroids: Any
    """(n_lists, dim) float32, for ``l2``: the square of a query's distance to its list's centroid
    is that share. None otherwise, and for codes of the vectors themselves."""
    book: Any
    """(byte_len, 256, code_bytes) float32: the codewords of each code byte, twice as long for
    ``l2``: what a query is multiplied with."""
    rounded_book: Any
    """(code_bytes, 256, byte_len) uint16: the same, rounded to the bits of bf16."""
    radii: Any
    """(code_bytes,) float32: the longest of each code byte in ``book``."""
    group_offsets: Any
    """(n_lists + 1,) uint32."""
    row_offsets: Any
    """(n_lists + 1,) uint32."""
    tiles: Any
    """(n_tiles, 2) uint32: the list of each tile, and the number in it of the tile's first item."""
    codes: Any
    """(n_groups, 32 * code_bytes) uint8, arranged by ``code_layout.cuh``."""
    item_ids: Any
    """(n_items,) int64."""
    scales: Any
    """(n_items,) uint8, entries of ``scale_table``; None where the index has no item scales."""
    scale_table: Any
    """(256,) float32, or None."""
    terms: Any
    """(n_items,) float32; None with scales, and for the inner product: see ``scorer.cuh``."""

    vectors: DeviceVectors | None = None
    """For a second look; None in an index without, and where they stay on the host."""

    @property
    def item_terms(self) -> tuple[Any, Any, Any]:
        """``ItemTerms`` of ``scorer.cuh``, as kernels take them."""
        return self.scales, self.scale_table, self.terms

    @property
    def is_plain(self) -> bool:
        """Whether a score needs nothing of its item but the codes."""
        return self.scales is None and self.terms is None

    @property
    def n_bytes(self) -> int:
        """Device memory of all arrays."""
        return sum(int(getattr(value, "nbytes", 0)) for value in vars(self).values())

    @property
    def items(self) -> ItemGroups:
        """What item sets are marked among."""
        n_groups = self.shape.n_groups
        return ItemGroups(self.item_ids, self.group_offsets, self.row_offsets, n_groups)


def open_on_device(index: Index, device: Device, *, with_vectors: bool = True) -> DeviceIndex:
    """Copy ``index`` to the device, ``with_vectors`` if it has some, and arrange its codes there.

    Raises
    ------
    ValueError
        A code that the kernels do not know, naming what they do, or too many dimensions.
    MemoryError
        An index larger than the device's free memory, before anything is allocated.
    """
    shape = index_shape(index)
    check_dim(device.card, shape)
    with_vectors = with_vectors and index.has_vectors
    of_vectors = vector_bytes(index) if with_vectors else 0
    needed = device_bytes(index, shape) + of_vectors
    if needed > device.free_bytes():
        hint = (
            f", {of_vectors} of them for vectors: vectors_on_device=False leaves those on the host"
        )
        raise MemoryError(
            f"index: expected at most {device.free_bytes()} bytes, the free memory of "
            f"{device.card.name}; this one needs {needed}{hint if with_vectors else ''}"
        )
    xp, metric = device.xp, index.params.metric
    origin, centred = _move_to_origin(index)
    centroids, book = centred.coarse_centroids, byte_codebook(centred)
    if metric == "l2":
        book *= 2
    squares = np.einsum("ld,ld->l", centroids, centroids)
    factors = _list_factors(index, squares)
    list_vectors = 2 * centroids if metric == "l2" else centroids
    has_shares = centred.encodes_residual
    longest = np.sqrt(np.einsum("lbm,lbm->bm", book, book).max(axis=0))
    groups = -(-index.list_sizes // 32)
    fields = {
        "rotation": centred.rotation_of_queries,
        "origin": origin,
        "list_table": _padded(np.ascontiguousarray(list_vectors.T), shape.padded_lists),
        "list_biases": _padded(-squares, shape.padded_lists) if metric == "l2" else None,
        "list_factors": None if factors is None else _padded(factors, shape.padded_lists),
        "centroids": centroids if has_shares and metric == "l2" else None,
        "book": book,
        "rounded_book": to_bf16(np.ascontiguousarray(book.transpose(2, 1, 0))),
        "radii": longest,
        "group_offsets": np.concatenate([[0], np.cumsum(groups)]).astype(np.uint32),
        "row_offsets": index.list_offsets.astype(np.uint32),
        "tiles": tiles_of_lists(index.list_sizes),
        "item_ids": index.item_ids,
        "scales": index.scales,
        "scale_table": None if index.scales is None else index.quantization.scale_table,
    }
    arrays = {name: None if a is None else xp.asarray(a) for name, a in fields.items()}
    codes, terms = _arrange_codes(index, shape, device, arrays, centred)
    return DeviceIndex(
        shape=shape,
        metric=np.int32(METRICS.index(metric)),
        has_bases=np.int32(has_shares and metric != "l2"),
        score_metric=np.int32(METRICS.index(metric if index.scales is None else "cosine")),
        codes=codes,
        terms=terms,
        vectors=open_vectors(index, device) if with_vectors else None,
        **arrays,
    )


def device_bytes(index: Index, shape: IndexShape) -> int:
    """Device memory that opening ``index`` takes at most, what it needs only then included.

    Without its vectors.
    """
    quantization = index.quantization
    per_item = 8 + (1 if quantization.has_scales else 0 if shape.metric == "inner_product" else 4)
    codes = 32 * shape.code_bytes * shape.n_groups
    staging = min(UPLOAD_BYTES, index.n_items * shape.code_bytes)
    rotation = 0 if quantization.rotation is None else quantization.rotation.nbytes
    book = 4 * BOOK_ROWS * shape.byte_len * shape.code_bytes
    tables = 2 * quantization.coarse_centroids.nbytes + 16 * shape.n_lists + rotation + 2 * book
    return codes + per_item * shape.n_items + staging + tables + 8 * shape.n_tiles


def tiles_of_lists(list_sizes: Int64) -> NDArray[np.uint32]:
    """(n_tiles, 2) uint32: list and first item of every tile; no list without items has any."""
    n_tiles = -(-list_sizes // TILE_ITEMS)
    lists = np.repeat(np.arange(len(list_sizes)), n_tiles)
    starts = np.repeat(np.cumsum(n_tiles) - n_tiles, n_tiles)
    first_items = (np.arange(len(lists)) - starts) * TILE_ITEMS
    return np.stack((lists, first_items), axis=1).astype(np.uint32)


def byte_codebook(quantization: Quantization) -> Float32:
    """(byte_len, 256, code_bytes) float32: what each value of each code byte stands for.

    A byte of two 4-bit codes stands for both their codewords, one after the other, so that the
    kernels look up bytes whatever the width of a code. Values and bytes that no item has are zeros.
    """
    packed = codes_per_byte(quantization.pq_bits)
    n_bytes = -(-quantization.pq_dim // packed)
    pq_len, book_size = quantization.pq_len, quantization.pq_book_size
    book = np.zeros((packed * pq_len, BOOK_ROWS, -(-n_bytes // 4) * 4), np.float32)
    values = np.arange(BOOK_ROWS)
    for m, codewords in enumerate(quantization.codebook):
        byte, place = divmod(m, packed)
        codes = (values >> (4 * place)) & 15 if packed == 2 else values[:book_size]
        book[place * pq_len : (place + 1) * pq_len, : len(codes), byte] = codewords[codes].T
    return book


def to_bf16(array: Float32) -> NDArray[np.uint16]:
    """The nearest bf16 of each value, of two the even one, as its bits; NumPy has no such type."""
    bits = array.view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def _list_factors(index: Index, squares: Float32) -> Float32 | None:
    """What makes a list's score of its centroid's product; ``squares`` are of their lengths."""
    if index.params.metric == "cosine" and index.list_factors is None:
        return np.asarray(1 / np.sqrt(np.where(squares > 0, squares, 1)), np.float32)
    return index.list_factors


def _padded(array: Float32, width: int) -> Float32:
    """``array`` with zeros at the end of its last axis."""
    added = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return np.pad(array, added)


def _move_to_origin(index: Index) -> tuple[Float32 | None, Quantization]:
    """The origin of an ``l2`` index, and the quantization relative to it."""
    quantization = index.quantization
    if index.params.metric != "l2":
        return None, quantization
    codebook = quantization.codebook
    origin = middle_of(quantization)
    if not quantization.encodes_residual:
        codebook = codebook - origin.reshape(len(codebook), 1, -1)
    centroids = quantization.coarse_centroids - origin
    return origin, replace(quantization, coarse_centroids=centroids, codebook=codebook)


def _arrange_codes(
    index: Index,
    shape: IndexShape,
    device: Device,
    arrays: dict[str, Any],
    quantization: Quantization,
) -> tuple[Any, Any]:
    """``codes`` and ``terms`` of a :class:`DeviceIndex`."""
    xp, packed = device.xp, index.packed_codes
    codes = xp.zeros((shape.n_groups, 32 * shape.code_bytes), np.uint8)
    has_terms = shape.metric != "inner_product" and not quantization.has_scales
    terms = xp.empty(shape.n_items, np.float32) if has_terms else None
    centroids = arrays["centroids"]
    if shape.metric == "cosine" and quantization.encodes_residual:
        centroids = xp.asarray(quantization.coarse_centroids)
    n_lists, dim = np.int32(shape.n_lists), np.int32(shape.dim)
    n_packed, n_bytes = np.int32(packed.shape[1]), np.int32(shape.code_bytes)
    rows = max(1, UPLOAD_BYTES // packed.shape[1])
    for start in range(0, shape.n_items, rows):
        part = xp.asarray(np.ascontiguousarray(packed[start : start + rows]))
        grid, block = (-(-len(part) // THREADS),), (THREADS,)
        first, n = np.uint32(start), np.int32(len(part))
        groups, offsets = arrays["group_offsets"], arrays["row_offsets"]
        device.kernel("layout.cu", "arrange_codes")(
            grid, block, (part, groups, offsets, n_lists, first, n, n_packed, n_bytes, codes)
        )
        if terms is not None:
            metric, byte_len = np.int32(METRICS.index(shape.metric)), np.int32(shape.byte_len)
            device.kernel("layout.cu", "item_terms")(
                grid,
                block,
                (
                    *(part, offsets, centroids, arrays["book"], metric, n_lists, first, n),
                    *(n_packed, n_bytes, byte_len, dim, terms),
                ),
            )
    return codes, terms
