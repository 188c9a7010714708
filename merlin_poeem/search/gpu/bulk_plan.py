"""The bulk path: its sizes, and when it is the faster one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.index_shape import PRODUCT_DIMS, TILE_ITEMS, IndexShape
from merlin_poeem.search.gpu.rounding import round_up
from merlin_poeem.search.gpu.shared_memory import STATIC_SHARED_BYTES

# More are visited in no order, and the path needs the best first.
MAX_SORTED_PROBES = 4096
# TILE_QUERIES and ROW_PADDING of cuda/tiles.cu, and sizeof(Noted) of cuda/noted.cuh.
TILE_QUERIES, ROW_PADDING, BF16_BYTES, NOTED_BYTES = 64, 8, 2, 8
# Of the products' steps, those whose items stay in registers: STEPS of cuda/tiles.cu.
HELD_STEPS = (4, 8)
BULK_COMPUTE_CAPABILITY = (8, 0)
# The best lists that are scanned first hold at least so many times k items: the threshold that
# fewer give lets most items of the others pass.
SEED_ITEMS_PER_RESULT = 2
# Of the items of the other lists, the share that reaches the threshold, as a part of k over the
# items that it is from: .52 and .58 on a clustered catalog of 570,000 items, at 8 and 32 probes.
NOTED_SHARE = 0.55
# Room for what is noted, as a multiple of what is expected.
NOTED_ROOM = 2
MAX_NOTED = 65536
# Instructions of a warp, counted in the machine code by benchmarks/sass.py and not measured on a
# card. For 32 items of one query: of the scan, and of the products with a tile, by steps of 16
# dimensions. For a byte of 32 items: of decoding. For 32 noted items: of rescoring.
SCAN_INSTRUCTIONS, LOOKUP_INSTRUCTIONS = 45, 3.5
TILE_INSTRUCTIONS, STEP_INSTRUCTIONS = 9.6, 0.68
DECODE_INSTRUCTIONS = 17
RESCORE_INSTRUCTIONS, RESCORE_LOOKUP_INSTRUCTIONS = 116, 7.5
# Noted items lie apart: a warp reads as many places as it has lanes.
GATHER = 2
# Instructions are not time: the two paths took equally long on an H100 where the scan's were so
# many times the bulk path's (570,000 and 4.3M items, 16 bytes, 16 to 1,024 queries a list).
BULK_GAIN = 2.9
# Tiles of a small index are shared by several blocks, until there are so many of each
# multiprocessor.
BLOCKS_PER_MULTIPROCESSOR, MAX_TILE_PARTS = 8, 16


@dataclass(frozen=True)
class BulkPlan:
    """The bulk path's own sizes."""

    n_seeds: int
    """Lists of each query that are scanned first."""
    n_noted: int
    """Groups of 32 items that can be noted for a query; one with more is scanned."""
    tile_parts: int = 1
    """Blocks that share the queries of a tile."""


def plan_bulk(card: Card, shape: IndexShape, k: int, n_probes: int) -> BulkPlan | None:
    """The bulk path's sizes; None where the card, the index or the search do not allow it.

    With a codeword far longer than the others its margins would let every item pass.
    """
    fits = tile_shared_bytes(shape) + STATIC_SHARED_BYTES <= card.shared_bytes_per_block
    if card.compute_capability < BULK_COMPUTE_CAPABILITY or not (fits and shape.fixed_point):
        return None
    n_seeds = choose_n_seeds(shape, k, n_probes)
    if 2 * n_seeds > n_probes or n_probes > MAX_SORTED_PROBES:
        return None
    groups = (n_probes - n_seeds) * shape.n_groups / shape.n_lists
    with_any = 1 - (1 - noted_share(shape, k, n_seeds)) ** 32
    n_noted = round_up(math.ceil(NOTED_ROOM * groups * with_any), 32)
    blocks = BLOCKS_PER_MULTIPROCESSOR * card.n_multiprocessors
    parts = min(MAX_TILE_PARTS, -(-blocks // max(1, shape.n_tiles)))
    return BulkPlan(n_seeds, min(max(n_noted, 32), MAX_NOTED), parts)


def tile_shared_bytes(shape: IndexShape) -> int:
    """Dynamic shared memory of ``find_candidates``: two tiles of queries, one of items."""
    return BF16_BYTES * (2 * TILE_QUERIES + TILE_ITEMS) * (shape.padded_dim + ROW_PADDING)


def held_steps(shape: IndexShape) -> int:
    """``STEPS`` of ``find_candidates``."""
    steps = shape.padded_dim // PRODUCT_DIMS
    return next((held for held in HELD_STEPS if steps <= held), 0)


def choose_n_seeds(shape: IndexShape, k: int, n_probes: int) -> int:
    """Lists to scan first: with more of them fewer items of the others are noted.

    Where scanning n lists and rescoring a share c / n of the others cost least together.
    """
    c = NOTED_SHARE * k / items_per_list(shape)
    best = math.sqrt(c * n_probes * rescore_cost(shape) / scan_cost(shape))
    least = SEED_ITEMS_PER_RESULT * k / items_per_list(shape)
    return math.ceil(max(best, least, 1))


def noted_share(shape: IndexShape, k: int, n_seeds: int) -> float:
    """Of the items of the other lists, those that are expected to be noted."""
    return min(1.0, NOTED_SHARE * k / (n_seeds * items_per_list(shape)))


def items_per_list(shape: IndexShape) -> float:
    """Of the mean list, or one where it has less."""
    return max(1.0, shape.n_items / shape.n_lists)


def scan_cost(shape: IndexShape) -> float:
    """Instructions of a warp for 32 items and one query."""
    return SCAN_INSTRUCTIONS + LOOKUP_INSTRUCTIONS * shape.code_bytes


def rescore_cost(shape: IndexShape) -> float:
    """The same for 32 noted items."""
    return GATHER * (RESCORE_INSTRUCTIONS + RESCORE_LOOKUP_INSTRUCTIONS * shape.code_bytes)


def is_bulk_faster(shape: IndexShape, queries: int, k: int, n_probes: int, bulk: BulkPlan) -> bool:
    """Whether the bulk path takes ``BULK_GAIN`` times fewer instructions for so many queries."""
    per_list = queries * n_probes / shape.n_lists
    scan = scan_cost(shape)
    filling = per_list / (TILE_QUERIES * math.ceil(per_list / TILE_QUERIES))
    steps = shape.padded_dim / PRODUCT_DIMS
    tiles = (TILE_INSTRUCTIONS + STEP_INSTRUCTIONS * steps) / filling
    decoding = bulk.tile_parts * DECODE_INSTRUCTIONS * shape.code_bytes / per_list
    rescoring = noted_share(shape, k, bulk.n_seeds) * rescore_cost(shape)
    seeded = bulk.n_seeds / n_probes
    others = (1 - seeded) * (tiles + decoding + rescoring)
    return BULK_GAIN * (seeded * scan + others) < scan
