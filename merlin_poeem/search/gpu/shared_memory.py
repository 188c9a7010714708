"""What the shared memory of a block holds, and how many blocks a multiprocessor has room for."""

from __future__ import annotations

from typing import Literal

from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.index_shape import IndexShape
from merlin_poeem.search.gpu.rounding import power_of_two

LutLayout = Literal["spread", "compact"]

THREADS = 256
"""Threads of every block: ``THREADS`` of ``cuda/block.cuh``."""
WARPS = THREADS // 32
BOOK_ROWS = 256
"""Rows of a LUT, one a code byte's value."""
BANKS = 32
"""Words of shared memory that are read at once."""
QUERY_TILE, LARGE_QUERY_TILE = 8, 32
"""Queries that ``multiply_table`` takes together: ``TILE`` of ``cuda/tables.cu``."""
LARGE_TILE_PADDING = 4
"""Words between its tiles of 32 queries."""
LARGE_TILE_BATCH = 257
"""From so many queries on, tiles of 32 fill a card."""

STATIC_SHARED_BYTES = 4352
"""The most that a kernel declares for itself; the card's limit holds for both together."""
RESERVED_SHARED_BYTES = 1024
"""What CUDA takes of a multiprocessor's shared memory for each block."""
# Fewer resident blocks than this leave the lookups of one block waiting for its loads.
MIN_RESIDENT_BLOCKS = 2
MAX_RESIDENT_BLOCKS = 4


def check_dim(card: Card, shape: IndexShape) -> None:
    """``ValueError`` where ``multiply_table`` cannot hold its queries in a block of this card."""
    needed = table_shared_bytes(QUERY_TILE, max(shape.dim, shape.code_bytes * shape.byte_len))
    if needed > card.shared_bytes_per_block:
        raise ValueError(
            f"dim, pq_dim: {shape.dim} dimensions, {shape.byte_len} a code byte, need {needed} "
            f"bytes of shared memory in a block; {card.name} has {card.shared_bytes_per_block}"
        )


def query_tile(card: Card, n: int, width: int) -> int:
    """Queries that ``multiply_table`` takes together, of ``n`` of ``width`` values each."""
    # Three blocks a multiprocessor, or else the small tile's are more.
    fits = 3 * table_shared_bytes(LARGE_QUERY_TILE, width) <= card.shared_bytes_per_block
    return LARGE_QUERY_TILE if n >= LARGE_TILE_BATCH and fits else QUERY_TILE


def table_shared_bytes(tile: int, width: int) -> int:
    """Shared memory of a block of ``multiply_table`` for ``tile`` queries of ``width`` values."""
    return 4 * width * (tile + (LARGE_TILE_PADDING if tile == LARGE_QUERY_TILE else 0))


def table_columns(tile: int, n_parts: int) -> int:
    """``COLUMNS`` of ``multiply_table`` for ``tile`` queries of ``n_parts`` parts."""
    return 2 if tile == LARGE_QUERY_TILE and n_parts == 1 else 1


def query_warps(card: Card, dim: int) -> int:
    """Queries, a warp each, that a block of ``prepare_queries`` has shared memory for."""
    return max(1, min(WARPS, card.shared_bytes_per_block // (8 * dim)))


def buffer_capacity(k: int) -> int:
    """Pairs that a top-k buffer holds: room for a push of every thread, and for half of k again."""
    return power_of_two(max(k + THREADS, k + k // 2))


def segment_widths(code_bytes: int) -> list[int]:
    """Columns of the segments that a LUT row of ``code_bytes`` is cut into: ``code_layout.cuh``."""
    widths, left = [], code_bytes
    for width in (32, 16, 8, 4):
        widths += [width] * (left // width)
        left %= width
    return widths


def lut_shared_bytes(code_bytes: int, layout: LutLayout) -> int:
    """Shared memory of one LUT of int32."""
    widths = segment_widths(code_bytes)
    columns = BANKS * len(widths) if layout == "spread" else sum(widths)
    return 4 * BOOK_ROWS * columns


def choose_lut_layout(card: Card, code_bytes: int, buffer_bytes: int) -> tuple[LutLayout, int]:
    """The layout, and its bytes: spread if blocks of it can be resident together, else compact.

    Raises ``ValueError`` where neither fits in a block of this card.
    """
    spread = lut_shared_bytes(code_bytes, "spread")
    if resident_blocks(card, spread + buffer_bytes) >= MIN_RESIDENT_BLOCKS:
        return "spread", spread
    compact = lut_shared_bytes(code_bytes, "compact")
    if resident_blocks(card, compact + buffer_bytes):
        return "compact", compact
    needed = compact + buffer_bytes + STATIC_SHARED_BYTES
    raise ValueError(
        f"pq_dim, k: {code_bytes} code bytes and this k need {needed} bytes of shared memory in a "
        f"block; {card.name} has {card.shared_bytes_per_block}: use a smaller k or fewer code bytes"
    )


def resident_blocks(card: Card, shared_bytes: int) -> int:
    """Blocks that a multiprocessor has shared memory for, none if one block may not have so much;
    no more than use is made of."""
    whole = shared_bytes + STATIC_SHARED_BYTES
    if whole > card.shared_bytes_per_block:
        return 0
    resident = card.shared_bytes_per_multiprocessor // (whole + RESERVED_SHARED_BYTES)
    # What one block may have, one multiprocessor has, whatever is reserved there.
    return min(max(1, resident), MAX_RESIDENT_BLOCKS)
