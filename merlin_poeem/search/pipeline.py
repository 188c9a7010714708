"""The kernels of one search, in their order: queries → lists → LUTs → scan → results.

Nothing here waits for the device or copies to the host, so that a CUDA graph can record it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.search.device import Device
from merlin_poeem.search.device_index import DeviceIndex
from merlin_poeem.search.plan import BOOK_ROWS, PROBE_BYTES, QUERY_TILE, THREADS, WARPS, SearchPlan

BLOCK = (THREADS,)


@dataclass(frozen=True, eq=False)
class Results:
    """What the kernels return: arrays on the device, places without a result filled."""

    scores: Any
    """(n, k) float32, falling; −inf after the last result."""
    item_ids: Any
    """(n, k) int64; −1 after the last result."""
    counts: Any
    """(n,) int32, results of each query."""

    @classmethod
    def empty(cls, device: Device, n_queries: int, k: int) -> Results:
        """Room for the results of ``n_queries``, its content undefined."""
        xp = device.xp
        return cls(
            xp.empty((n_queries, k), np.float32),
            xp.empty((n_queries, k), np.int64),
            xp.empty(n_queries, np.int32),
        )

    def __getitem__(self, queries: slice) -> Results:
        return Results(self.scores[queries], self.item_ids[queries], self.counts[queries])


@dataclass(frozen=True, eq=False)
class Filters:
    """What a search must not, or may only, return; each None where there is no such filter."""

    eligible_mask: Any = None
    """(n_groups,) uint32, a bit an item, for all queries: ``DeviceIndex.eligible_mask``."""
    exclude_offsets: Any = None
    """(n + 1,) int64 into ``exclude_ids``."""
    exclude_ids: Any = None
    """int64, sorted within each query."""
    allow_offsets: Any = None
    allow_ids: Any = None

    def __getitem__(self, queries: slice) -> Filters:
        ends = slice(queries.start, queries.stop + 1)
        exclude, allow = self.exclude_offsets, self.allow_offsets
        return Filters(
            self.eligible_mask,
            None if exclude is None else exclude[ends],
            self.exclude_ids,
            None if allow is None else allow[ends],
            self.allow_ids,
        )


NO_FILTERS = Filters()


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
        self._squares, self._scales, self._units = (xp.empty(n, np.float32) for _ in range(3))
        self._products = xp.empty((n, shape.n_lists), np.float32)
        self._probes = xp.empty((n, n_probes, PROBE_BYTES // 4), np.int32)
        self._luts = xp.empty((n, BOOK_ROWS, shape.code_bytes), np.int32)
        self._part_scores = self._part_rows = self._part_counts = None
        if plan.n_parts > 1:
            self._part_scores = xp.empty((n, plan.n_parts, k), np.float32)
            self._part_rows = xp.empty((n, plan.n_parts, k), np.uint32)
            self._part_counts = xp.empty((n, plan.n_parts), np.int32)

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
        self._scan(n, results, filters)
        if self._plan.n_parts > 1:
            self._merge_parts(n, results)

    def _prepare_queries(self, queries: Any, n: int) -> None:
        index, shape = self._index, self._index.shape
        rotation = index.rotation
        if rotation is not None and self._plan.library_products and shape.metric != "cosine":
            queries = self._device.xp.matmul(queries, rotation, out=self._rotated[:n])
            rotation = None
        self._device.kernel("queries.cu", "prepare_queries")(
            (-(-n // WARPS),),
            BLOCK,
            (
                *(queries, rotation, index.origin, index.radii, index.base_radius, index.metric),
                *(np.int32(n), np.int32(shape.dim), np.int32(shape.code_bytes)),
                *(np.int32(shape.byte_len), self._rotated, self._squares),
                *(self._scales, self._units),
            ),
            shared_bytes=2 * 4 * shape.dim * WARPS,
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
        index, plan = self._index, self._plan
        whole = plan.n_parts == 1
        spread = "true" if plan.lut_layout == "spread" else "false"
        self._device.kernel("scan.cu", f"scan<{index.shape.code_bytes}, {spread}>")(
            (n * plan.n_parts,),
            BLOCK,
            (
                *(self._luts, self._units, self._squares, self._probes),
                *(index.codes, index.terms, index.item_ids, filters.eligible_mask),
                *(filters.exclude_offsets, filters.exclude_ids),
                *(filters.allow_offsets, filters.allow_ids),
                *(index.metric, self._n_probes, np.int32(plan.n_parts)),
                *(self._k, np.int32(plan.capacity)),
                *(self._part_scores, self._part_rows, self._part_counts),
                *(results.scores if whole else None, results.item_ids if whole else None),
                results.counts if whole else None,
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
