"""The kernels of one search, in their order: queries → lists → LUTs → scan → second look.

Nothing here waits for the device or copies to the host, so that a CUDA graph can record it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.arrays import largest_value
from merlin_poeem.search.gpu.bulk_plan import (
    NOTED_BYTES,
    BulkPlan,
    held_steps,
    tile_shared_bytes,
)
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.device_index import DeviceIndex
from merlin_poeem.search.gpu.device_vectors import DeviceVectors
from merlin_poeem.search.gpu.filters import NO_FILTERS, Filters
from merlin_poeem.search.gpu.kernels import refine_name, scan_name, table_name, tiles_name
from merlin_poeem.search.gpu.plan import PROBE_BYTES, SearchPlan
from merlin_poeem.search.gpu.results import Results
from merlin_poeem.search.gpu.shared_memory import (
    BOOK_ROWS,
    THREADS,
    lut_shared_bytes,
    query_tile,
    query_warps,
    table_columns,
    table_shared_bytes,
)
from merlin_poeem.search.gpu.workspace import Pieces

BLOCK = (THREADS,)
# More queries are rotated as they are multiplied with centroids, a column a thread; a warp that
# rotates its own query reads the whole rotation for it.
MAX_ROTATED_IN_PLACE = 32


class Pipeline:
    """The launches of one plan, with the memory for their intermediate results.

    ``n_queries`` at a time at most; ``k`` and ``n_probes`` are those that ``plan`` was made for.
    ``pieces`` has ``plan.workspace_bytes`` left.
    """

    def __init__(
        self,
        device: Device,
        index: DeviceIndex,
        plan: SearchPlan,
        k: int,
        n_probes: int,
        pieces: Pieces,
    ) -> None:
        self._device, self._index, self._plan = device, index, plan
        self._n_results, self._n_probes = np.int32(k), np.int32(n_probes)
        take, shape, n = pieces.take, index.shape, plan.chunk
        # What the codes are asked for: results, or candidates by their ranks.
        self._item_ids, self._vectors = index.item_ids, None
        if plan.n_candidates:
            assert index.vectors is not None
            k, self._item_ids, self._vectors = plan.n_candidates, index.vectors.ranks, index.vectors
            self._candidates = Results(
                take((n, k), np.float32), take((n, k), np.int64), take(n, np.int32)
            )
        self._k = np.int32(k)
        self._rotated = take((n, shape.dim), np.float32)
        self._scales, self._units, self._margins = (take(n, np.float32) for _ in range(3))
        self._probes = take((n, n_probes, PROBE_BYTES // 4), np.int32)
        # The LUTs come when the lists are chosen, and lie where the products were.
        lut_words = BOOK_ROWS * shape.code_bytes
        words = take(n * max(shape.padded_lists, lut_words), np.int32)
        products = words[: n * shape.padded_lists].view(np.float32)
        self._products = products.reshape(n, shape.padded_lists)
        self._luts = words[: n * lut_words].reshape(n, BOOK_ROWS, shape.code_bytes)
        self._rounded = self._pair_counts = self._noted_counts = None
        if plan.n_parts > 1 or plan.bulk is not None:
            self._part_scores = take((n, plan.n_parts, k), np.float32)
            self._part_rows = take((n, plan.n_parts, k), np.uint32)
            self._part_counts = take((n, plan.n_parts), np.int32)
        if plan.bulk is not None:
            self._rounded = take((n, shape.padded_dim), np.uint16)
            self._thresholds = take(n, np.float32)
            self._pair_counts = take(shape.n_lists, np.int32)
            self._pair_ends = take(shape.n_lists, np.int32)
            self._pairs = take(n * (n_probes - plan.bulk.n_seeds), np.int32)
            self._noted_counts = take(n, np.int32)
            self._noted = take((n, plan.bulk.n_noted, NOTED_BYTES // 4), np.uint32)

    def run(self, queries: Any, results: Results, filters: Filters = NO_FILTERS) -> None:
        """Search for (n, dim) float32 ``queries`` on the device, chunk by chunk."""
        n, size = len(queries), self._plan.chunk
        if n <= size:
            self._run_chunk(queries, results, filters)
            return
        for start in range(0, n, size):
            chunk = slice(start, min(start + size, n))
            self._run_chunk(queries[chunk], results[chunk], filters[chunk])

    def _run_chunk(self, queries: Any, results: Results, filters: Filters) -> None:
        n = len(queries)
        self._prepare_queries(queries, n)
        self._score_lists(n)
        self._choose_lists(n)
        self._build_luts(n)
        found = results if self._vectors is None else self._candidates[:n]
        if self._plan.bulk is not None:
            self._search_in_bulk(n, self._plan.bulk, found, filters)
        else:
            self._scan(n, found, filters)
        if self._vectors is not None:
            self._refine(n, self._vectors, found, results)

    def _prepare_queries(self, queries: Any, n: int) -> None:
        index, shape = self._index, self._index.shape
        largest = np.float32(largest_value(shape.metric))
        products = None
        # A query of the cosine is made of unit length first.
        if index.rotation is not None and n > MAX_ROTATED_IN_PLACE and shape.metric != "cosine":
            products = self._rotated
            self._multiply(n, queries, index.rotation, products)
        warps = query_warps(self._device.card, shape.dim)
        self._device.kernel("queries.cu", "prepare_queries")(
            (-(-n // warps),),
            (32 * warps,),
            (
                *(queries, index.rotation, products, index.origin, index.radii),
                *(largest, index.metric, np.int32(n), np.int32(shape.dim)),
                *(np.int32(shape.padded_dim), np.int32(shape.code_bytes)),
                *(np.int32(shape.byte_len), np.int32(shape.n_lists)),
                *(self._rotated, self._rounded, self._scales, self._units),
                *(self._margins, self._noted_counts, self._pair_counts),
            ),
            shared_bytes=2 * 4 * shape.dim * warps,
        )

    def _score_lists(self, n: int) -> None:
        self._multiply(n, self._rotated, self._index.list_table, self._products)

    def _build_luts(self, n: int) -> None:
        n_bytes = self._index.shape.code_bytes
        book = self._index.book.reshape(self._index.shape.byte_len, BOOK_ROWS * n_bytes)
        fixed = self._index.shape.fixed_point
        self._multiply_table(n, self._rotated, book, n_bytes, self._luts, fixed=fixed)

    def _multiply(self, n: int, queries: Any, table: Any, out: Any) -> None:
        self._multiply_table(n, queries, table, 1, out, fixed=False)

    def _multiply_table(
        self, n: int, queries: Any, table: Any, n_parts: int, out: Any, *, fixed: bool
    ) -> None:
        length, width = table.shape
        tile = query_tile(self._device.card, n, n_parts * length)
        columns = table_columns(tile, n_parts)
        self._device.kernel("tables.cu", table_name(fixed, tile, columns))(
            (-(-width // (THREADS * columns)), -(-n // tile)),
            BLOCK,
            (
                *(queries, table, self._scales if fixed else None),
                *(np.int32(n), np.int32(self._index.shape.dim), np.int32(length)),
                *(np.int32(n_parts), np.int32(width), out),
            ),
            shared_bytes=table_shared_bytes(tile, n_parts * length),
        )

    def _choose_lists(self, n: int) -> None:
        index, sorts = self._index, self._plan.sorts_probes
        l2 = index.shape.metric == "l2"
        width = 1 << (int(self._n_probes) - 1).bit_length()
        self._device.kernel("lists.cu", "choose_lists")(
            (n,),
            BLOCK,
            (
                *(self._products, index.list_factors, index.list_biases, index.has_bases),
                *(self._rotated if l2 else None, index.centroids, self._scales),
                *(index.group_offsets, index.row_offsets, np.int32(index.shape.n_lists)),
                *(np.int32(index.shape.padded_lists), self._n_probes, np.int32(sorts)),
                *(np.int32(index.shape.dim), self._probes),
            ),
            shared_bytes=8 * width if sorts else 0,
        )

    def _scan(self, n: int, results: Results, filters: Filters) -> None:
        n_probes, n_parts = int(self._n_probes), self._plan.n_parts
        if n_parts == 1:
            outputs = (None, None, None, None, results.scores, results.item_ids, results.counts)
            self._launch_scan(n, n_probes, n_parts, filters, outputs)
        else:
            parts = (self._part_scores, self._part_rows, self._part_counts)
            self._launch_scan(n, n_probes, n_parts, filters, (*parts, None, None, None, None))
            self._merge_parts(n, results)

    def _launch_scan(
        self, n: int, n_probes: int, n_parts: int, filters: Filters, outputs: tuple[Any, ...]
    ) -> None:
        index, plan = self._index, self._plan
        spread = plan.lut_layout == "spread"
        fixed = index.shape.fixed_point
        plain = spread and fixed and index.is_plain and not filters
        self._device.kernel("scan.cu", scan_name(index.shape.code_bytes, spread, plain, fixed))(
            (n * n_parts,),
            BLOCK,
            (
                *(self._luts, self._units, self._probes),
                *(index.codes, *index.item_terms, self._item_ids, filters.eligible_mask),
                *(filters.exclude_offsets, filters.exclude_ids),
                *(filters.allow_offsets, filters.allow_ids),
                *(index.score_metric, self._n_probes, np.int32(n_probes), np.int32(n_parts)),
                *(self._k, np.int32(plan.capacity), *outputs),
            ),
            shared_bytes=plan.shared_bytes,
        )

    def _merge_parts(self, n: int, results: Results) -> None:
        self._device.kernel("merge.cu", "merge_parts")(
            (n,),
            BLOCK,
            (
                *(self._part_scores, self._part_rows, self._part_counts, self._item_ids),
                *(np.int32(self._plan.n_parts), self._k, np.int32(self._plan.capacity)),
                *(results.scores, results.item_ids, results.counts),
            ),
            shared_bytes=self._plan.merge_shared_bytes,
        )

    def _search_in_bulk(self, n: int, bulk: BulkPlan, results: Results, filters: Filters) -> None:
        seeds = (self._part_scores, self._part_rows, self._part_counts)
        outputs = (*seeds, self._thresholds, None, None, None)
        self._launch_scan(n, bulk.n_seeds, 1, filters, outputs)
        self._group_pairs(n, bulk)
        self._find_candidates(bulk, filters)
        self._rescore(n, bulk, filters, results)

    def _group_pairs(self, n: int, bulk: BulkPlan) -> None:
        """The (query, probe) pairs grouped by list."""
        own, n_lists = n * (int(self._n_probes) - bulk.n_seeds), np.int32(self._index.shape.n_lists)
        grid, sizes = (-(-own // THREADS),), (np.int32(n), self._n_probes, np.int32(bulk.n_seeds))
        counts, ends = self._pair_counts, self._pair_ends
        kernel = self._device.kernel
        kernel("pairs.cu", "count_pairs")(grid, BLOCK, (self._probes, *sizes, counts))
        kernel("pairs.cu", "end_lists")((1,), BLOCK, (counts, n_lists, ends))
        kernel("pairs.cu", "place_pairs")(
            grid, BLOCK, (self._probes, *sizes, ends, counts, self._pairs)
        )

    def _find_candidates(self, bulk: BulkPlan, filters: Filters) -> None:
        index, shape = self._index, self._index.shape
        name = tiles_name(held_steps(shape), plain=index.is_plain)
        self._device.kernel("tiles.cu", name)(
            (shape.n_tiles, bulk.tile_parts),
            BLOCK,
            (
                *(self._rounded, self._margins, self._thresholds),
                *(self._probes, self._pair_ends, self._pairs, index.tiles),
                *(index.group_offsets, index.row_offsets, index.codes, *index.item_terms),
                *(filters.eligible_mask, index.rounded_book, index.score_metric),
                *(np.int32(shape.padded_dim), np.int32(shape.code_bytes)),
                *(np.int32(shape.byte_len), self._n_probes),
                *(np.int32(bulk.n_noted), self._noted, self._noted_counts),
            ),
            shared_bytes=tile_shared_bytes(shape),
        )

    def _rescore(self, n: int, bulk: BulkPlan, filters: Filters, results: Results) -> None:
        index, plan = self._index, self._plan
        n_bytes = index.shape.code_bytes
        self._device.kernel("rescore.cu", f"rescore<{n_bytes}>")(
            (n,),
            BLOCK,
            (
                *(self._luts, self._units, self._probes),
                *(index.codes, *index.item_terms, self._item_ids, filters.eligible_mask),
                *(self._part_scores, self._part_rows, self._part_counts),
                *(self._noted, self._noted_counts, index.score_metric, self._n_probes),
                *(np.int32(bulk.n_seeds), np.int32(bulk.n_noted), self._k),
                *(np.int32(plan.capacity), results.scores, results.item_ids, results.counts),
            ),
            shared_bytes=lut_shared_bytes(n_bytes, "compact") + plan.merge_shared_bytes,
        )

    def _refine(
        self, n: int, vectors: DeviceVectors, candidates: Results, results: Results
    ) -> None:
        # Under l2 queries are relative to the origin that the vectors are counted from, too.
        index, plan = self._index, self._plan
        name = refine_name(half=vectors.is_half, l2=index.shape.metric == "l2")
        self._device.kernel("refine.cu", name)(
            (n,),
            BLOCK,
            (
                *(self._rotated, candidates.item_ids, candidates.counts),
                *(vectors.values, vectors.scales, vectors.sorted_ids),
                *(np.int32(index.shape.dim), np.int32(vectors.n_quads)),
                *(np.int32(vectors.n_lanes), self._k, self._n_results, np.int32(plan.capacity)),
                *(results.scores, results.item_ids, results.counts),
            ),
            shared_bytes=vectors.query_bytes + plan.merge_shared_bytes,
        )
