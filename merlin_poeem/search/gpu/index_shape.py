"""The sizes of an index that kernels and plans depend on, and how large they may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merlin_poeem.arrays import Float32
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.params import Metric
from merlin_poeem.search.gpu.rounding import round_up

MAX_CODE_BYTES = 64
MAX_PQ_BITS = 8
TILE_ITEMS = 128
"""Items of a list that the bulk path decodes together: ``TILE_ITEMS`` of ``cuda/tiles.cu``."""
PRODUCT_DIMS = 16
"""Dimensions that tensor cores take at a time."""
MAX_LENGTH_RATIO = 64
"""The longest codeword of a subspace over the median one, up to which sums are in fixed point: so
much of its digits the others lose."""
MAX_GROUPS = 2**27 - 1
"""Rows, 32 a group, are 32-bit numbers in the kernels; the last one stands for no row."""


@dataclass(frozen=True)
class IndexShape:
    """The sizes of an index that a plan depends on."""

    n_items: int
    n_lists: int
    n_groups: int
    """Groups of 32 items, each of one list."""
    dim: int
    code_bytes: int
    """Bytes of an item's code on the device: a multiple of 4."""
    byte_len: int
    """Dimensions that one code byte stands for."""
    metric: Metric
    n_tiles: int
    """Tiles of at most ``TILE_ITEMS`` items, each of one list."""
    fixed_point: bool = True
    """Whether lookups are summed in fixed point, or as float32: :func:`has_even_codewords`."""

    @property
    def padded_lists(self) -> int:
        """Scores of a query, some of no list included: four are read at once."""
        return round_up(self.n_lists, 4)

    @property
    def padded_dim(self) -> int:
        """The dimensions of all code bytes, those that no item uses included, as tensor cores take
        them."""
        return round_up(self.code_bytes * self.byte_len, PRODUCT_DIMS)


def index_shape(index: Index) -> IndexShape:
    """The sizes of ``index`` on a device; ``ValueError`` names what the kernels support."""
    params = index.params
    if params.pq_bits > MAX_PQ_BITS:
        raise ValueError(
            f"pq_bits: expected at most {MAX_PQ_BITS} on the GPU, got {params.pq_bits}"
        )
    packed = codes_per_byte(params.pq_bits)
    used_bytes = -(-params.pq_dim // packed)
    if used_bytes > MAX_CODE_BYTES:
        raise ValueError(
            f"pq_dim: expected at most {MAX_CODE_BYTES * packed} on the GPU with "
            f"pq_bits = {params.pq_bits}, got {params.pq_dim}"
        )
    n_groups = int((-(-index.list_sizes // 32)).sum())
    if n_groups > MAX_GROUPS:
        raise ValueError(
            f"index: expected at most {MAX_GROUPS} groups of 32 items, each of one list, on one "
            f"GPU; got {n_groups} of {index.n_items} items"
        )
    return IndexShape(
        n_items=index.n_items,
        n_lists=index.n_lists,
        n_groups=n_groups,
        dim=index.dim,
        code_bytes=-(-used_bytes // 4) * 4,
        byte_len=packed * index.quantization.pq_len,
        metric=params.metric,
        n_tiles=int((-(-index.list_sizes // TILE_ITEMS)).sum()),
        fixed_point=has_even_codewords(index.quantization.codebook),
    )


def has_even_codewords(codebook: Float32) -> bool:
    """Whether no codeword of (pq_dim, book_size, pq_len) is far longer than its subspace's others.

    The longest decides the unit of fixed point; one that is far longer would leave the others too
    few digits.
    """
    lengths = np.linalg.norm(codebook, axis=2)
    return bool((lengths.max(axis=1) <= MAX_LENGTH_RATIO * np.median(lengths, axis=1)).all())


def codes_per_byte(pq_bits: int) -> int:
    """Codes that the index stores in one byte."""
    return 2 if pq_bits == 4 else 1
