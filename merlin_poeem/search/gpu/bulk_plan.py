"""The bulk path: its sizes, and when it is the faster one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from merlin_poeem.search.gpu.card import MAX_GRID_Y, Card
from merlin_poeem.search.gpu.index_shape import IndexShape
from merlin_poeem.search.gpu.rounding import power_of_two, round_up
from merlin_poeem.search.gpu.shared_memory import STATIC_SHARED_BYTES

# More are visited in no order, and the path needs the best first.
MAX_SORTED_PROBES = 4096
# TILE_QUERIES, TILE_ITEMS and ROW_PADDING of cuda/tiles.cu, in which a matrix product of tensor
# cores takes 16 dimensions, and a row of bf16 2 bytes a dimension.
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


@dataclass(frozen=True)
class BulkPlan:
    """The bulk path's own sizes."""

    n_seeds: int
    """Lists of each query that are scanned first."""
    n_noted: int
    """Candidates for which a query has room; one with more is scanned."""
    tile_shared_bytes: int
    """Dynamic shared memory of a block that finds candidates."""


def plan_bulk(card: Card, shape: IndexShape, k: int, n_probes: int) -> BulkPlan | None:
    """The bulk path's sizes; None where the card, the dimensions or the search do not allow it."""
    row = round_up(shape.dim, PRODUCT_DIMS) + ROW_PADDING
    tile_shared_bytes = BF16_BYTES * (TILE_QUERIES + TILE_ITEMS) * row
    fits = tile_shared_bytes + STATIC_SHARED_BYTES <= card.shared_bytes_per_block
    fits = fits and shape.largest_list <= MAX_GRID_Y * TILE_ITEMS
    if card.compute_capability < BULK_COMPUTE_CAPABILITY or not fits:
        return None
    per_list = max(1.0, shape.n_items / shape.n_lists)
    n_seeds = max(math.ceil(SEED_SHARE * n_probes), math.ceil(SEED_ITEMS_PER_RESULT * k / per_list))
    if 2 * n_seeds > n_probes or n_probes > MAX_SORTED_PROBES:
        return None
    noted = power_of_two(math.ceil(2 * k * n_probes / n_seeds))
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
