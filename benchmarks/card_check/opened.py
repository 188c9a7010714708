"""A catalog made on the device, its index, its queries and what is right."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.card_check.points import Point, Size
from benchmarks.card_check.ways import ForcedSearcher
from benchmarks.device_catalogs import DeviceCatalog, build_device_index
from benchmarks.search_gpu.answers import find_error, overlap
from benchmarks.search_gpu.backend import Hits
from benchmarks.search_gpu.exact_peers import exact_top_k
from benchmarks.search_gpu.limits import Work
from merlin_poeem import Index
from merlin_poeem.arrays import to_host
from merlin_poeem.evaluate import items_scanned, recall_at_k
from merlin_poeem.search import reference
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.searcher import GpuSearcher
from merlin_poeem.search.ragged import IdLists

# Batches that take turns, so that no search finds the lists of the one before it in the cache.
QUERY_SETS = 4
JUDGED_QUERIES, CHECKED_QUERIES, MOST_JUDGED_BATCHES = 256, 8, 32
LARGEST_K = 1000


class Opened:
    """What is timed and judged of one size."""

    def __init__(self, device: Device, size: Size, largest_batch: int) -> None:
        self.device, self.size, self._largest_batch = device, size, largest_batch
        self._searchers: dict[Any, GpuSearcher] = {}

    @cached_property
    def catalog(self) -> DeviceCatalog:
        """The items, on the device."""
        return DeviceCatalog(self.device.xp, "clustered", self.size.n_items, self.size.dim)

    @cached_property
    def index(self) -> Index:
        """Trained and encoded on the device."""
        size = self.size
        return build_device_index(self.catalog, code_bytes=size.code_bytes, n_lists=size.n_lists)

    @cached_property
    def index_with_vectors(self) -> Index:
        """The same, with the items' float16 vectors, which a search looks at where it is told."""
        vectors = to_host(self.catalog.vectors)
        return self.index.with_vectors(self.catalog.item_ids(), vectors).with_refine(0)

    @cached_property
    def query_sets(self) -> list[Any]:
        """Batches on the device."""
        sets = range(QUERY_SETS)
        return [self.catalog.device_queries(self._largest_batch, part=part) for part in sets]

    @cached_property
    def judged_queries(self) -> Any:
        """(n, dim) float32 on the host."""
        return self.catalog.queries(JUDGED_QUERIES, part=QUERY_SETS)

    def searcher(
        self, way: str, device: Device | None = None, *, with_vectors: bool = False
    ) -> GpuSearcher:
        """Ours as it is, or made to scan or to search in bulk."""
        device = self.device if device is None else device
        key = way, id(device), with_vectors
        if key not in self._searchers:
            index = self.index_with_vectors if with_vectors else self.index
            self._searchers[key] = (
                GpuSearcher(index, device)
                if way == "planned"
                else ForcedSearcher(index, device, bulk=way == "bulk")
            )
        return self._searchers[key]

    def judge(self, searcher: GpuSearcher, point: Point) -> dict[str, Any]:
        """Recall against exact search, agreement with the definition, what is wrong if anything.

        Of batches as large as ``point``'s, so that they go its way.
        """
        k, n_probes, refine = point.k, point.n_probes, point.refine
        judged = self.judged_queries[: MOST_JUDGED_BATCHES * point.batch]
        hits = self._search(searcher, point, judged)
        exact = IdLists.from_rows(list(self._exact_ids[: len(judged), :k]))
        checked = judged[:CHECKED_QUERIES]
        index = searcher.index
        right = reference.search(index, checked, k=k, n_probes=n_probes, refine=refine)
        expected = right.padded(k, fill_id=-1)
        return {
            "recall": recall_at_k(hits[1], exact, k),
            "agreement": overlap(hits, expected),
            "error": find_error(index, checked, hits, expected, refine > 0),
        }

    def _search(self, searcher: GpuSearcher, point: Point, judged: Any) -> Hits:
        """Scores and item ids (len(judged), k) of searches of ``point.batch`` queries."""
        parts = []
        for start in range(0, len(judged), point.batch):
            part = judged[start : start + point.batch]
            queries = self.query_sets[0][: point.batch].copy()
            queries[: len(part)] = self.device.xp.asarray(part)
            results = searcher.search_padded(
                queries, k=point.k, n_probes=point.n_probes, refine=point.refine
            )
            arrays = results.scores, results.item_ids
            parts.append([to_host(array)[: len(part)].copy() for array in arrays])
        scores, item_ids = (np.concatenate(each) for each in zip(*parts, strict=True))
        return scores, item_ids

    def work(self, batch: int, k: int, n_probes: int) -> Work:
        """For the model of what the card could do."""
        size, params = self.size, self.index.params
        return Work(
            n_items=size.n_items,
            dim=size.dim,
            pq_dim=params.pq_dim,
            pq_bits=params.pq_bits,
            n_lists=size.n_lists,
            batch=batch,
            k=k,
            items_scanned=self.items_scanned(n_probes),
        )

    def items_scanned(self, n_probes: int) -> float:
        """Items of the lists that a query visits, the mean."""
        return float(np.mean(items_scanned(self.index, self.judged_queries, n_probes)))

    @cached_property
    def _exact_ids(self) -> Any:
        xp, k = self.device.xp, min(LARGEST_K, self.size.n_items)
        queries = xp.asarray(self.judged_queries)
        rows = exact_top_k(xp, self.catalog.vectors, queries, k)[1]
        return self.catalog.item_ids(to_host(rows))
