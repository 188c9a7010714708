"""How an exact search is laid out on a card: a pure function of sizes and the card's limits."""

from __future__ import annotations

from dataclasses import dataclass

from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.plan import (
    MAX_K,
    MAX_MERGED,
    MAX_PARTS,
    PAIR_BYTES,
    balanced_chunk,
)
from merlin_poeem.search.gpu.rounding import round_up
from merlin_poeem.search.gpu.shared_memory import buffer_capacity, resident_blocks
from merlin_poeem.search.gpu.workspace import ALIGNMENT

BLOCK_QUERIES = 8
"""Queries that share the vectors that a block reads: ``QUERIES`` of ``cuda/flat.cu``."""
BLOCK_ROWS = 1024
"""Items that a block scores: ``ROWS`` of ``cuda/flat.cu``."""
MAX_ROWS = 2**32 - BLOCK_ROWS
"""Rows are 32-bit numbers in the kernels, and the last one stands for no row."""
MIN_PART_ROWS = 4 * BLOCK_ROWS
"""A part smaller than this takes longer to start and to merge than to read."""
MAX_ARRAYS = 4
"""Of a search, at most: each may leave nearly ALIGNMENT bytes of its workspace unused."""


@dataclass(frozen=True)
class FlatPlan:
    """What an exact search of one batch does. Sizes in bytes, counts otherwise."""

    capacity: int
    """Pairs that a block's top-k buffer holds."""
    shared_bytes: int
    """Dynamic shared memory of a block that keeps the best."""
    n_parts: int
    """Blocks that share the scores of one query."""
    chunk: int
    """Queries searched at once; a larger batch goes chunk by chunk."""
    workspace_bytes: int
    """Device memory that the search uses for scores and parts."""


def plan_flat(card: Card, n_items: int, batch: int, k: int, workspace_limit: int) -> FlatPlan:
    """The plan for ``batch`` queries of ``k`` results each.

    ``k`` is no more than ``n_items``, and neither is 0. ``workspace_limit`` is in bytes.

    Raises
    ------
    ValueError
        ``k`` above ``MAX_K``, or a workspace in which not even one query fits.
    """
    if k > MAX_K:
        raise ValueError(f"k: expected at most {MAX_K} on the GPU, got {k}")
    most = max(1, min(MAX_PARTS, MAX_MERGED // k, n_items // MIN_PART_ROWS))
    for_all, per_query = ALIGNMENT * MAX_ARRAYS, bytes_per_query(n_items, k, most)
    if for_all + per_query > workspace_limit:
        raise ValueError(
            f"workspace_bytes: expected at least {for_all + per_query}, what one query of "
            f"{n_items} items with k = {k} needs; got {workspace_limit}"
        )
    chunk = balanced_chunk(batch, (workspace_limit - for_all) // per_query)
    capacity = buffer_capacity(k)
    wanted = card.n_multiprocessors * resident_blocks(card, PAIR_BYTES * capacity)
    n_parts = max(1, min(-(-wanted // chunk), most))
    return FlatPlan(
        capacity=capacity,
        shared_bytes=PAIR_BYTES * capacity,
        n_parts=n_parts,
        chunk=chunk,
        workspace_bytes=for_all + chunk * bytes_per_query(n_items, k, n_parts),
    )


def padded_rows(n_items: int) -> int:
    """Rows of ``n_items``, those that fill the last block included."""
    return round_up(n_items, BLOCK_ROWS)


def bytes_per_query(n_items: int, k: int, n_parts: int) -> int:
    """Device memory of one query's scores, and of the best of its parts where there are several."""
    return 4 * padded_rows(n_items) + ((8 * k + 4) * n_parts if n_parts > 1 else 0)
