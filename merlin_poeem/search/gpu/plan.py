"""How a search is laid out on a card: a pure function of sizes and the card's limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from merlin_poeem.search.gpu.bulk_plan import (
    MAX_SORTED_PROBES,
    BulkPlan,
    is_bulk_faster,
    plan_bulk,
)
from merlin_poeem.search.gpu.card import MAX_GRID_Y, Card
from merlin_poeem.search.gpu.index_shape import IndexShape
from merlin_poeem.search.gpu.rounding import power_of_two, round_up
from merlin_poeem.search.gpu.shared_memory import (
    BOOK_ROWS,
    QUERY_TILE,
    WARPS,
    LutLayout,
    buffer_capacity,
    check_dim,
    choose_lut_layout,
    resident_blocks,
)

PROBE_BYTES = 24
"""``sizeof(Probe)``, ``cuda/probe.cuh``."""
MAX_K = 2048
# A part smaller than this takes longer to start and to merge than to scan.
MIN_GROUPS_PER_PART = 4 * WARPS
MAX_PARTS = 64
# More than a merging block should read.
MAX_MERGED = 32768
# From here on cuBLAS multiplies faster than multiply_table, whose launches CUDA can record.
LIBRARY_PRODUCT_BATCH = 256
MAX_CAPTURED_BATCH = 32
# multiply_table counts query tiles in a grid's second dimension.
MAX_CHUNK = MAX_GRID_Y * QUERY_TILE
# (query, probe) pairs are 32-bit numbers.
MAX_PAIRS = 2**31 - 1


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
    buffer_bytes = round_up(8 * capacity + 2 * k, 16)
    lut_layout, lut_bytes = choose_lut_layout(card, shape.code_bytes, buffer_bytes)
    resident = resident_blocks(card, lut_bytes + buffer_bytes)
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
    rounded = power_of_two(batch)
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
