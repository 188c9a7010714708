"""How a search is laid out on a card: a pure function of sizes and the card's limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from merlin_poeem.quantization.params import Metric
from merlin_poeem.search.gpu.device import Card

LutLayout = Literal["spread", "compact"]

THREADS = 256
"""Threads of every block: ``THREADS`` of ``cuda/block.cuh``."""
WARPS = THREADS // 32
BOOK_ROWS = 256
"""Rows of a LUT, one a code byte's value."""
BANKS = 32
"""Words of shared memory that are read at once."""
QUERY_TILE = 8
"""Queries that ``multiply_table`` takes together: ``TILE`` of ``cuda/tables.cu``."""
PROBE_BYTES = 24
"""``sizeof(Probe)``, ``cuda/probe.cuh``."""

MAX_K = 2048
MAX_CODE_BYTES = 64
MAX_PQ_BITS = 8
MAX_GROUPS = 2**27 - 1
"""Rows, 32 a group, are 32-bit numbers in the kernels; the last one stands for no row."""

STATIC_SHARED_BYTES = 4352
"""The most that a kernel declares for itself; the card's limit holds for both together."""
RESERVED_SHARED_BYTES = 1024
"""What CUDA takes of a multiprocessor's shared memory for each block."""
# Fewer resident blocks than this leave the lookups of one block waiting for its loads.
MIN_RESIDENT_BLOCKS = 2
MAX_RESIDENT_BLOCKS = 3
# A part smaller than this takes longer to start and to merge than to scan.
MIN_GROUPS_PER_PART = 4 * WARPS
MAX_PARTS = 64
# More than a merging block should read.
MAX_MERGED = 32768
MAX_SORTED_PROBES = 4096
# From here on cuBLAS multiplies faster than multiply_table, whose launches CUDA can record.
LIBRARY_PRODUCT_BATCH = 256
MAX_CAPTURED_BATCH = 32

# The bulk path: TILE_QUERIES, TILE_ITEMS and ROW_PADDING of cuda/tiles.cu, in which a matrix
# product of tensor cores takes 16 dimensions, and a row of bf16 2 bytes a dimension.
TILE_QUERIES, TILE_ITEMS, ROW_PADDING, PRODUCT_DIMS, BF16_BYTES = 64, 128, 8, 16, 2
BULK_COMPUTE_CAPABILITY = (8, 0)
# Of a query's lists, the best part is scanned first; it has to hold several times k items, or the
# threshold that it gives lets too many items of the other lists pass.
SEED_SHARE = 1 / 16
SEED_ITEMS_PER_RESULT = 4
MIN_NOTED, MAX_NOTED = 1024, 65536
# Instructions of a warp by which the paths are compared, counted in the compiled kernels and not
# measured on a card: for 32 items of one query in the scan, and of a tile.
SCAN_INSTRUCTIONS, LOOKUP_INSTRUCTIONS = 40, 3.5
TILE_INSTRUCTIONS, DECODE_INSTRUCTIONS = 10, 12
BULK_GAIN = 1.5
# The second dimension of a grid ends here: multiply_table counts query tiles in it, find_candidates
# the tiles of a list.
MAX_GRID_Y = 65535
MAX_CHUNK = MAX_GRID_Y * QUERY_TILE
# (query, probe) pairs are 32-bit numbers.
MAX_PAIRS = 2**31 - 1


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
    largest_list: int
    """Items of the longest list."""


@dataclass(frozen=True)
class BulkPlan:
    """The bulk path's own sizes."""

    n_seeds: int
    """Lists of each query that are scanned first."""
    n_noted: int
    """Candidates for which a query has room; one with more is scanned."""
    tile_shared_bytes: int
    """Dynamic shared memory of a block that finds candidates."""


@dataclass(frozen=True)
class SearchPlan:
    """What a search of one batch does. Sizes in bytes, counts otherwise."""

    path: Literal["scan", "bulk"]
    """``scan``: each query's lists are scanned for it alone, with its LUT in shared memory.
    ``bulk``: only its best lists are; of the others, each is decoded once and multiplied on tensor
    cores with all queries that probe it, and what may be among their best is scored from its codes.
    """
    bulk: BulkPlan | None
    """Set where ``path`` is ``bulk``."""
    lut_layout: LutLayout
    """``spread``: columns repeated over all banks, no conflicts; ``compact``: each once."""
    lut_bytes: int
    """Of shared memory."""
    capacity: int
    """Pairs that a block's top-k buffer holds."""
    shared_bytes: int
    """Dynamic shared memory of a scanning block."""
    merge_shared_bytes: int
    """The same of a merging block."""
    n_parts: int
    """Blocks that share the lists of one query."""
    sorts_probes: bool
    """Whether a query's lists are visited best first."""
    chunk: int
    """Queries searched at once; a larger batch goes chunk by chunk."""
    workspace_bytes: int
    """Device memory that the search uses beside the index, its queries and its results."""
    library_products: bool
    """Whether cuBLAS multiplies queries with rotation and centroids, or a kernel of ours."""
    captured_batch: int | None
    """The batch, rounded up, of the CUDA graph that serves this search; None where none does."""


def plan_search(
    card: Card,
    shape: IndexShape,
    batch: int,
    k: int,
    n_probes: int,
    workspace_limit: int,
    *,
    id_lists: bool = False,
) -> SearchPlan:
    """The plan for ``batch`` queries, ``k`` results and ``n_probes`` lists each.

    ``k`` counts the results a query can have at most: no more than the index has items.
    ``workspace_limit`` is in bytes. ``id_lists`` tells that queries exclude or allow ids of their
    own, which only the scan tests.

    Raises
    ------
    ValueError
        ``k`` above ``MAX_K``, too many dimensions or too wide a code for the card's shared memory,
        or a workspace in which not even one query fits: each with what is needed and what there is.
    """
    if k > MAX_K:
        raise ValueError(f"k: expected at most {MAX_K} on the GPU, got {k}")
    check_dim(card, shape)
    capacity = buffer_capacity(k)
    buffer_bytes = _round_up(8 * capacity + 2 * k, 16)
    lut_layout, lut_bytes = choose_lut_layout(card, shape.code_bytes, buffer_bytes)
    resident = _resident_blocks(card, lut_bytes + buffer_bytes)
    bulk = None if id_lists else plan_bulk(card, shape, k, n_probes)
    if bulk is not None:
        per_query = workspace_bytes_per_query(shape, k, n_probes, 1, bulk)
        if not is_bulk_faster(shape, min(batch, workspace_limit // per_query), n_probes, bulk):
            bulk = None
    n_parts = 1
    if bulk is None:
        n_parts = choose_n_parts(card.n_multiprocessors * resident, shape, batch, k, n_probes)
    per_query = workspace_bytes_per_query(shape, k, n_probes, n_parts, bulk)
    if per_query > workspace_limit:
        raise ValueError(
            f"workspace_bytes: expected at least {per_query}, what one query with "
            f"n_probes = {n_probes} and k = {k} needs; got {workspace_limit}"
        )
    chunk = max(1, min(batch, workspace_limit // per_query, MAX_CHUNK, MAX_PAIRS // n_probes))
    # The graph is of the batch rounded up, which has to fit whole.
    rounded = _power_of_two(batch)
    captured = batch <= MAX_CAPTURED_BATCH and rounded * per_query <= workspace_limit
    return SearchPlan(
        path="scan" if bulk is None else "bulk",
        bulk=bulk,
        lut_layout=lut_layout,
        lut_bytes=lut_bytes,
        capacity=capacity,
        shared_bytes=lut_bytes + buffer_bytes,
        merge_shared_bytes=buffer_bytes,
        n_parts=n_parts,
        sorts_probes=n_probes <= MAX_SORTED_PROBES,
        chunk=chunk,
        workspace_bytes=chunk * per_query,
        library_products=chunk >= LIBRARY_PRODUCT_BATCH,
        captured_batch=rounded if captured and bulk is None else None,
    )


def plan_bulk(card: Card, shape: IndexShape, k: int, n_probes: int) -> BulkPlan | None:
    """The bulk path's sizes; None where the card, the dimensions or the search do not allow it."""
    row = _round_up(shape.dim, PRODUCT_DIMS) + ROW_PADDING
    tile_shared_bytes = BF16_BYTES * (TILE_QUERIES + TILE_ITEMS) * row
    fits = tile_shared_bytes + STATIC_SHARED_BYTES <= card.shared_bytes_per_block
    fits = fits and shape.largest_list <= MAX_GRID_Y * TILE_ITEMS
    if card.compute_capability < BULK_COMPUTE_CAPABILITY or not fits:
        return None
    per_list = max(1.0, shape.n_items / shape.n_lists)
    n_seeds = max(math.ceil(SEED_SHARE * n_probes), math.ceil(SEED_ITEMS_PER_RESULT * k / per_list))
    if 2 * n_seeds > n_probes or n_probes > MAX_SORTED_PROBES:
        return None
    noted = _power_of_two(math.ceil(2 * k * n_probes / n_seeds))
    return BulkPlan(n_seeds, min(max(noted, MIN_NOTED), MAX_NOTED), tile_shared_bytes)


def is_bulk_faster(shape: IndexShape, queries: int, n_probes: int, bulk: BulkPlan) -> bool:
    """Whether the bulk path takes ``BULK_GAIN`` times fewer instructions for so many queries."""
    per_list = queries * n_probes / shape.n_lists
    if per_list < 1:
        return False
    scan = SCAN_INSTRUCTIONS + LOOKUP_INSTRUCTIONS * shape.code_bytes
    filling = per_list / (TILE_QUERIES * math.ceil(per_list / TILE_QUERIES))
    decoding = DECODE_INSTRUCTIONS * shape.code_bytes / per_list
    seeded = bulk.n_seeds / n_probes
    tiles = TILE_INSTRUCTIONS * (1 + shape.dim / 64) / filling + decoding
    return BULK_GAIN * (seeded * scan + tiles) < scan


def check_dim(card: Card, shape: IndexShape) -> None:
    """``ValueError`` where ``multiply_table`` cannot hold its queries in a block of this card."""
    needed = 4 * QUERY_TILE * max(shape.dim, shape.code_bytes * shape.byte_len)
    if needed > card.shared_bytes_per_block:
        raise ValueError(
            f"dim, pq_dim: {shape.dim} dimensions, {shape.byte_len} a code byte, need {needed} "
            f"bytes of shared memory in a block; {card.name} has {card.shared_bytes_per_block}"
        )


def query_warps(card: Card, dim: int) -> int:
    """Queries, a warp each, that a block of ``prepare_queries`` has shared memory for."""
    return max(1, min(WARPS, card.shared_bytes_per_block // (8 * dim)))


def buffer_capacity(k: int) -> int:
    """Pairs that a top-k buffer holds: room for a push of every thread, and for half of k again."""
    return _power_of_two(max(k + THREADS, k + k // 2))


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
    if _resident_blocks(card, spread + buffer_bytes) >= MIN_RESIDENT_BLOCKS:
        return "spread", spread
    compact = lut_shared_bytes(code_bytes, "compact")
    if _resident_blocks(card, compact + buffer_bytes):
        return "compact", compact
    needed = compact + buffer_bytes + STATIC_SHARED_BYTES
    raise ValueError(
        f"pq_dim, k: {code_bytes} code bytes and this k need {needed} bytes of shared memory in a "
        f"block; {card.name} has {card.shared_bytes_per_block}: use a smaller k or fewer code bytes"
    )


def choose_n_parts(wanted_blocks: int, shape: IndexShape, batch: int, k: int, n_probes: int) -> int:
    """Blocks that share a query, so that a small batch fills the card too."""
    groups = n_probes * shape.n_groups / max(1, shape.n_lists)
    most = min(MAX_PARTS, MAX_MERGED // k, int(groups) // MIN_GROUPS_PER_PART)
    return max(1, min(-(-wanted_blocks // max(1, batch)), most))


def workspace_bytes_per_query(
    shape: IndexShape, k: int, n_probes: int, n_parts: int, bulk: BulkPlan | None = None
) -> int:
    """Device memory of one query's intermediate results."""
    rotated = 4 * (shape.dim + 4)
    products = 4 * shape.n_lists
    lut = 4 * BOOK_ROWS * shape.code_bytes
    probes = PROBE_BYTES * n_probes
    parts = (8 * k + 4) * n_parts if n_parts > 1 or bulk is not None else 0
    candidates = 0 if bulk is None else 4 * (bulk.n_noted + n_probes - bulk.n_seeds + 2)
    return rotated + products + lut + probes + parts + candidates


def _resident_blocks(card: Card, shared_bytes: int) -> int:
    """Blocks that a multiprocessor has shared memory for, none if one block may not have so much;
    no more than use is made of."""
    whole = shared_bytes + STATIC_SHARED_BYTES
    if whole > card.shared_bytes_per_block:
        return 0
    resident = card.shared_bytes_per_multiprocessor // (whole + RESERVED_SHARED_BYTES)
    # What one block may have, one multiprocessor has, whatever is reserved there.
    return min(max(1, resident), MAX_RESIDENT_BLOCKS)


def _power_of_two(n: int) -> int:
    """The lowest power of two that is not below ``n``."""
    return 1 << max(0, n - 1).bit_length()


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step
