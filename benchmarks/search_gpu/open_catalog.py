"""A catalog on the device: its vectors, its queries, and what is right by exact search."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from benchmarks.catalogs import Catalog
from benchmarks.device_catalogs import DeviceCatalog
from benchmarks.search_gpu.backend import Backend
from benchmarks.search_gpu.exact_peers import exact_top_k
from benchmarks.search_gpu.machine import Machine
from benchmarks.search_gpu.material import Material, current_stream
from benchmarks.search_gpu.peers import open_exact_peers
from merlin_poeem.arrays import Int64, to_host
from merlin_poeem.evaluate import recall_at_k
from merlin_poeem.search.ragged import IdLists

# Batches that take turns, so that no search finds the lists of the one before it in the cache.
QUERY_SETS = 4
RECALL_QUERIES, EMULATED_RECALL_QUERIES = 1000, 64


class OpenCatalog:
    """The items and queries of a catalog on the device, and what does not depend on an index.

    ``largest_batch`` and ``largest_k`` are those to come.
    """

    def __init__(
        self,
        catalog: Catalog | DeviceCatalog,
        machine: Machine,
        largest_batch: int,
        largest_k: int,
    ) -> None:
        self.catalog, self.machine = catalog, machine
        self._largest_k = min(largest_k, catalog.n_items)
        self.material = Material(
            catalog, self._upload_vectors(), machine.xp, current_stream(machine.xp)
        )
        self.query_sets = [
            machine.xp.asarray(catalog.queries(largest_batch, part=part))
            for part in range(QUERY_SETS)
        ]
        n_judged = EMULATED_RECALL_QUERIES if machine.is_emulated else RECALL_QUERIES
        self.recall_queries = catalog.queries(n_judged, part=QUERY_SETS)
        self.exact_peers = open_exact_peers(self.material)
        self.exact_seconds: dict[tuple[str, int, int], float] = {}
        """By backend, batch and k: measured once a run, whatever the index is."""
        self._exact_recalls: dict[tuple[str, int], float] = {}

    def recall(self, backend: Backend, k: int, n_probes: int) -> float:
        """Against exact search of the float vectors."""
        key = (backend.name, k)
        if key in self._exact_recalls:
            return self._exact_recalls[key]
        queries = self.machine.xp.asarray(self.recall_queries)
        item_ids = backend.search_to_host(queries, k, n_probes)[1]
        recall = recall_at_k(item_ids, IdLists.from_rows(list(self._truth[:, :k])), k)
        if backend.is_exact:
            self._exact_recalls[key] = recall
        return recall

    @cached_property
    def _truth(self) -> Int64:
        """Item ids (queries judged, largest k) of exact search."""
        xp = self.machine.xp
        queries = xp.asarray(self.recall_queries)
        rows = exact_top_k(xp, self.material.vectors, queries, self._largest_k)[1]
        return self.catalog.item_ids(to_host(rows))

    def _upload_vectors(self) -> Any:
        """(n_items, dim) float32 on the device, a chunk at a time."""
        if isinstance(self.catalog, DeviceCatalog):
            return self.catalog.vectors
        xp = self.machine.xp
        vectors = xp.empty((self.catalog.n_items, self.catalog.dim), xp.float32)
        start = 0
        for chunk in self.catalog.chunks():
            vectors[start : start + len(chunk)] = xp.asarray(chunk)
            start += len(chunk)
        return vectors
