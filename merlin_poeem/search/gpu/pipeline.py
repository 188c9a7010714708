"""The kernels of one search, in their order: queries → lists → LUTs → scan → results.

Nothing here waits for the device or copies to the host, so that a CUDA graph can record it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.search.gpu.bulk_plan import PRODUCT_DIMS, TILE_ITEMS, BulkPlan
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.device_index import DeviceIndex
from merlin_poeem.search.gpu.filters import NO_FILTERS, Filters
from merlin_poeem.search.gpu.kernels import scan_name
from merlin_poeem.search.gpu.plan import PROBE_BYTES, SearchPlan
from merlin_poeem.search.gpu.results import Results
from merlin_poeem.search.gpu.shared_memory import (
    BOOK_ROWS,
    QUERY_TILE,
    THREADS,
    lut_shared_bytes,
    query_warps,
)

BLOCK = (THREADS,)


class Pipeline:
    """The launches of one plan, with the memory for their intermediate results.

    ``n_queries`` at a time at most; ``k`` and ``n_probes`` are those that ``plan`` was made for.
    """

    def __init__(
        self, device: Device, index: DeviceIndex, plan: SearchPlan, k: int, n_probes: int
    ) -> None:
        self._device, self._index, self._plan = device, index, plan
        self._k, self._n_probes = np.int32(k), np.int32(n_probes)
        xp, shape, n = device.xp, index.shape, plan.chunk
        self._rotated = xp.empty((n, shape.dim), np.float32)
        self._squares, self._scales, self._units, self._margins = (
            xp.empty(n, np.float32) for _ in range(4)
        )
        self._products = xp.empty((n, shape.n_lists), np.float32)
        self._probes = xp.empty((n, n_probes, PROBE_BYTES // 4), np.int32)
        self._luts = xp.empty((n, BOOK_ROWS, shape.code_bytes), np.int32)
        if plan.n_parts > 1 or plan.bulk is not None:
            self._part_scores = xp.empty((n, plan.n_parts, k), np.float32)
            self._part_rows = xp.empty((n, plan.n_parts, k), np.uint32)
            self._part_counts = xp.empty((n, plan.n_parts), np.int32)
        if plan.bulk is not None:
            self._thresholds = xp.empty(n, np.float32)
            self._pairs = xp.empty(n * (n_probes - plan.bulk.n_seeds), np.int32)
            self._candidates = xp.empty((n, plan.bulk.n_noted), np.uint32)

    def run(self, queries: Any, results: Results, filters: Filters = NO_FILTERS) -> None:
        """Search for (n, dim) float32 ``queries`` on the device, chunk by chunk."""
        for start in range(0, len(queries), self._plan.chunk):
            chunk = slice(start, min(start + self._plan.chunk, len(queries)))
            self._run_chunk(queries[chunk], results[chunk], filters[chunk])

    def _run_chunk(self, queries: Any, results: Results, filters: Filters) -> None:
        n = len(queries)
        self._prepare_queries(queries, n)
        self._score_lists(n)
        self._choose_lists(n)
        self._build_luts(n)
        if self._plan.bulk is not None:
            self._search_in_bulk(n, self._plan.bulk, results, filters)
        else:
            self._scan(n, results, filters)

    def _prepare_queries(self, queries: Any, n: int) -> None:
        index, shape = self._index, self._index.shape
        rotation = index.rotation
        if rotation is not None and self._plan.library_products and shape.metric != "cosine":
            queries = self._device.xp.matmul(queries, rotation, out=self._rotated[:n])
            rotation = None
        warps = query_warps(self._device.card, shape.dim)
        self._device.kernel("queries.cu", "prepare_queries")(
            (-(-n // warps),),
            (32 * warps,),
            (
                *(queries, rotation, index.origin, index.radii, index.base_radius, index.metric),
                *(np.int32(n), np.int32(shape.dim), np.int32(shape.code_bytes)),
                *(np.int32(shape.byte_len), self._rotated, self._squares),
                *(self._scales, self._units, self._margins),
            ),
            shared_bytes=2 * 4 * shape.dim * warps,
        )

    def _score_lists(self, n: int) -> None:
        table = self._index.list_table
        if self._plan.library_products:
            self._device.xp.matmul(self._rotated[:n], table, out=self._products[:n])
        else:
            self._multiply_table("multiply_table<false>", n, table, 1, self._products)

    def _build_luts(self, n: int) -> None:
        n_bytes = self._index.shape.code_bytes
        book = self._index.book.reshape(self._index.shape.byte_len, BOOK_ROWS * n_bytes)
        self._multiply_table("multiply_table<true>", n, book, n_bytes, self._luts)

    def _multiply_table(self, name: str, n: int, table: Any, n_parts: int, out: Any) -> None:
        length, width = table.shape
        self._device.kernel("tables.cu", name)(
            (-(-width // THREADS), -(-n // QUERY_TILE)),
            BLOCK,
            (
                *(self._rotated, table, self._scales),
                *(np.int32(n), np.int32(self._index.shape.dim), np.int32(length)),
                *(np.int32(n_parts), np.int32(width), out),
            ),
            shared_bytes=4 * QUERY_TILE * n_parts * length,
        )

    def _choose_lists(self, n: int) -> None:
        index, sorts = self._index, self._plan.sorts_probes
        width = 1 << (int(self._n_probes) - 1).bit_length()
        self._device.kernel("lists.cu", "choose_lists")(
            (n,),
            BLOCK,
            (
                *(self._products, index.list_biases, index.base_factors, self._scales),
                *(index.group_offsets, index.row_offsets, np.int32(index.shape.n_lists)),
                *(self._n_probes, np.int32(sorts), self._probes),
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
        plain = spread and index.terms is None and not filters
        self._device.kernel("scan.cu", scan_name(index.shape.code_bytes, spread, plain))(
            (n * n_parts,),
            BLOCK,
            (
                *(self._luts, self._units, self._squares, self._probes),
                *(index.codes, index.terms, index.item_ids, filters.eligible_mask),
                *(filters.exclude_offsets, filters.exclude_ids),
                *(filters.allow_offsets, filters.allow_ids),
                *(index.metric, self._n_probes, np.int32(n_probes), np.int32(n_parts)),
                *(self._k, np.int32(plan.capacity), *outputs),
            ),
            shared_bytes=plan.shared_bytes,
        )

    def _merge_parts(self, n: int, results: Results) -> None:
        self._device.kernel("merge.cu", "merge_parts")(
            (n,),
            BLOCK,
            (
                *(self._part_scores, self._part_rows, self._part_counts, self._index.item_ids),
                *(np.int32(self._plan.n_parts), self._k, np.int32(self._plan.capacity)),
                *(results.scores, results.item_ids, results.counts),
            ),
            shared_bytes=self._plan.merge_shared_bytes,
        )

    def _search_in_bulk(self, n: int, bulk: BulkPlan, results: Results, filters: Filters) -> None:
        seeds = (self._part_scores, self._part_rows, self._part_counts)
        outputs = (*seeds, self._thresholds, None, None, None)
        self._launch_scan(n, bulk.n_seeds, 1, filters, outputs)
        pair_ends = self._group_pairs(n, bulk)
        found = self._device.xp.zeros(n, np.int32)
        self._find_candidates(bulk, filters, pair_ends, found)
        self._rescore(n, bulk, filters, found, results)

    def _group_pairs(self, n: int, bulk: BulkPlan) -> Any:
        """The (query, probe) pairs grouped by list; where each list's end is returned."""
        xp = self._device.xp
        counts = xp.zeros(self._index.shape.n_lists, np.int32)
        own = n * (int(self._n_probes) - bulk.n_seeds)
        grid, sizes = (-(-own // THREADS),), (np.int32(n), self._n_probes, np.int32(bulk.n_seeds))
        self._device.kernel("pairs.cu", "count_pairs")(grid, BLOCK, (self._probes, *sizes, counts))
        ends = xp.cumsum(counts, dtype=np.int32)
        self._device.kernel("pairs.cu", "place_pairs")(
            grid, BLOCK, (self._probes, *sizes, ends, counts, self._pairs)
        )
        return ends

    def _find_candidates(
        self, bulk: BulkPlan, filters: Filters, pair_ends: Any, found: Any
    ) -> None:
        index, shape = self._index, self._index.shape
        padded_dim = -(-shape.dim // PRODUCT_DIMS) * PRODUCT_DIMS
        self._device.kernel("tiles.cu", "find_candidates")(
            (shape.n_lists, -(-shape.largest_list // TILE_ITEMS)),
            BLOCK,
            (
                *(self._rotated, self._units, self._squares, self._margins, self._thresholds),
                *(self._probes, pair_ends, self._pairs, index.group_offsets, index.row_offsets),
                *(index.codes, index.terms, filters.eligible_mask, index.rounded_book),
                *(index.metric, np.int32(shape.dim), np.int32(padded_dim)),
                *(np.int32(shape.code_bytes), np.int32(shape.byte_len), self._n_probes),
                *(np.int32(bulk.n_noted), self._candidates, found),
            ),
            shared_bytes=bulk.tile_shared_bytes,
        )

    def _rescore(
        self, n: int, bulk: BulkPlan, filters: Filters, found: Any, results: Results
    ) -> None:
        index, plan = self._index, self._plan
        n_bytes = index.shape.code_bytes
        self._device.kernel("rescore.cu", f"rescore<{n_bytes}>")(
            (n,),
            BLOCK,
            (
                *(self._luts, self._units, self._squares, self._probes),
                *(index.codes, index.terms, index.item_ids, filters.eligible_mask),
                *(self._part_scores, self._part_rows, self._part_counts),
                *(self._candidates, found, index.metric, self._n_probes, np.int32(bulk.n_seeds)),
                *(np.int32(bulk.n_noted), self._k, np.int32(plan.capacity)),
                *(results.scores, results.item_ids, results.counts),
            ),
            shared_bytes=lut_shared_bytes(n_bytes, "compact") + plan.merge_shared_bytes,
        )
