"""How a search is laid out on a card: a pure function of sizes and the card's limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from merlin_poeem.search.gpu.bulk_plan import (
    BF16_BYTES,
    MAX_SORTED_PROBES,
    NOTED_BYTES,
    BulkPlan,
    is_bulk_faster,
    plan_bulk,
)
from merlin_poeem.search.gpu.card import MAX_GRID_Y, Card
from merlin_poeem.search.gpu.index_shape import IndexShape
from merlin_poeem.search.gpu.results import results_bytes
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
from merlin_poeem.search.gpu.workspace import ALIGNMENT

PROBE_BYTES = 24
"""``sizeof(Probe)``, ``cuda/probe.cuh``."""
MAX_K = 2048
# Of a top-k buffer: score, row and place in a bin.
PAIR_BYTES = 10
# A part smaller than this takes longer to start and to merge than to scan.
MIN_GROUPS_PER_PART = 4 * WARPS
MAX_PARTS = 64
# More than a merging block should read.
MAX_MERGED = 32768
MAX_CAPTURED_BATCH = 16384
"""Larger batches take longer than their launches."""
# Steps between the batches that graphs are of, as parts of the next power of two.
BATCH_STEPS = 8
# multiply_table counts query tiles in a grid's second dimension.
MAX_CHUNK = MAX_GRID_Y * QUERY_TILE
# Arrays of a pipeline, at most: each may leave nearly ALIGNMENT bytes of its workspace unused.
MAX_ARRAYS = 20
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
    captured_batch: int | None
    """The batch, rounded up, of the CUDA graph that serves this search where it has no filters;
    None where none does."""
    n_candidates: int = 0
    """Items of a query that are scored again by their vectors; 0: the codes have the last word."""


def plan_search(
    card: Card,
    shape: IndexShape,
    batch: int,
    k: int,
    n_probes: int,
    workspace_limit: int,
    *,
    refine: int = 0,
    id_lists: bool = False,
) -> SearchPlan:
    """The plan for ``batch`` queries, ``k`` results and ``n_probes`` lists each.

    ``k`` counts the results a query can have at most: no more than the index has items.
    ``workspace_limit`` is in bytes. With ``refine`` so many times ``k`` items are scored again, on
    the device. ``id_lists`` tells that queries exclude or allow ids of their own, which only the
    scan tests.

    Raises
    ------
    ValueError
        ``k``, or ``refine`` times it, above ``MAX_K``, too many dimensions or too wide a code for
        the card's shared memory, or a workspace in which not even one query fits: each with what is
        needed and what there is.
    """
    held = k
    # From here on `k` is what the codes are asked for.
    n_candidates = candidates_of(shape, k, refine) if refine else 0
    k = n_candidates or k
    if k > MAX_K:
        raise ValueError(f"k: expected at most {MAX_K} on the GPU, got {k}")
    check_dim(card, shape)
    capacity = buffer_capacity(k)
    buffer_bytes = PAIR_BYTES * capacity
    lut_layout, lut_bytes = choose_lut_layout(card, shape.code_bytes, buffer_bytes)
    resident = resident_blocks(card, lut_bytes + buffer_bytes)
    bulk = None if id_lists else plan_bulk(card, shape, k, n_probes)
    if bulk is not None:
        at_once = queries_at_once(
            shape, k, n_probes, 1, bulk, workspace_limit, refined=n_candidates > 0
        )
        chunk = balanced_chunk(batch, at_once)
        if at_once < 1 or not is_bulk_faster(shape, chunk, k, n_probes, bulk):
            bulk = None
    n_parts = 1
    if bulk is None:
        n_parts = choose_n_parts(card.n_multiprocessors * resident, shape, batch, k, n_probes)
    refined = n_candidates > 0
    per_query = workspace_bytes_per_query(shape, k, n_probes, n_parts, bulk, refined=refined)
    for_all = workspace_bytes_for_all(shape, bulk)
    at_once = queries_at_once(shape, k, n_probes, n_parts, bulk, workspace_limit, refined=refined)
    if at_once < 1:
        raise ValueError(
            f"workspace_bytes: expected at least {per_query + for_all}, what one query with "
            f"n_probes = {n_probes} and k = {k} needs; got {workspace_limit}"
        )
    chunk = balanced_chunk(batch, at_once)
    # The graph is of the batch rounded up, which may go another way, and has to fit whole.
    rounded = graph_batch(batch)
    if rounded == batch:
        captured = batch <= min(MAX_CAPTURED_BATCH, at_once)
    else:
        own = plan_search(
            *(card, shape, rounded, held, n_probes, workspace_limit),
            refine=refine,
            id_lists=id_lists,
        )
        captured = own.captured_batch is not None
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
        workspace_bytes=for_all + chunk * per_query,
        captured_batch=rounded if captured else None,
        n_candidates=n_candidates,
    )


def candidates_of(shape: IndexShape, k: int, refine: int) -> int:
    """Items that are scored again for each query: ``refine`` times ``k``, or all there are.

    ``ValueError`` where they are more than ``MAX_K``.
    """
    n_candidates = min(refine * k, max(1, shape.n_items))
    if n_candidates > MAX_K:
        raise ValueError(
            f"refine, k: expected refine * k of at most {MAX_K} on the GPU, got {refine} * {k}"
        )
    return n_candidates


def graph_batch(batch: int) -> int:
    """``batch`` rounded up to one of few: powers of two up to 32, then eight steps a doubling."""
    rounded = power_of_two(batch)
    return rounded if rounded <= 32 else round_up(batch, rounded // BATCH_STEPS)


def balanced_chunk(batch: int, most: int) -> int:
    """Queries of a chunk, at most ``most``, so that no chunk is much smaller than the others."""
    return -(-batch // -(-batch // max(1, most)))


def choose_n_parts(wanted_blocks: int, shape: IndexShape, batch: int, k: int, n_probes: int) -> int:
    """Blocks that share a query, so that a small batch fills the card too."""
    groups = n_probes * shape.n_groups / max(1, shape.n_lists)
    most = min(MAX_PARTS, MAX_MERGED // k, int(groups) // MIN_GROUPS_PER_PART)
    return max(1, min(-(-wanted_blocks // max(1, batch)), most))


def queries_at_once(
    shape: IndexShape,
    k: int,
    n_probes: int,
    n_parts: int,
    bulk: BulkPlan | None,
    workspace_limit: int,
    *,
    refined: bool = False,
) -> int:
    """How many queries the workspace has room for, and the kernels have numbers for."""
    left = workspace_limit - workspace_bytes_for_all(shape, bulk)
    per_query = workspace_bytes_per_query(shape, k, n_probes, n_parts, bulk, refined=refined)
    return min(max(0, left) // per_query, MAX_CHUNK, MAX_PAIRS // n_probes)


def workspace_bytes_per_query(
    shape: IndexShape,
    k: int,
    n_probes: int,
    n_parts: int,
    bulk: BulkPlan | None = None,
    *,
    refined: bool = False,
) -> int:
    """Device memory of one query's intermediate results; ``k``: what the codes are asked for."""
    rotated = 4 * (shape.dim + 3)
    products_or_lut = 4 * max(shape.padded_lists, BOOK_ROWS * shape.code_bytes)
    probes = PROBE_BYTES * n_probes
    parts = (8 * k + 4) * n_parts if n_parts > 1 or bulk is not None else 0
    noted = 0
    if bulk is not None:
        rounded, pairs = BF16_BYTES * shape.padded_dim, 4 * (n_probes - bulk.n_seeds)
        noted = rounded + NOTED_BYTES * bulk.n_noted + pairs + 2 * 4
    candidates = results_bytes(1, k) if refined else 0
    return rotated + products_or_lut + probes + parts + noted + candidates


def workspace_bytes_for_all(shape: IndexShape, bulk: BulkPlan | None) -> int:
    """The same of all queries together, and what lies unused between arrays."""
    pairs_of_lists = 0 if bulk is None else 2 * 4 * shape.n_lists
    return pairs_of_lists + ALIGNMENT * MAX_ARRAYS
