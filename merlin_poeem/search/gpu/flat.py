"""FlatGpuSearcher: a flat index searched on an NVIDIA GPU, every item scored for every query."""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.arrays import array_module, as_vectors, largest_value, normalize
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.search.gpu.device import CupyDevice, Device
from merlin_poeem.search.gpu.device_flat import open_flat
from merlin_poeem.search.gpu.device_queries import as_device_array
from merlin_poeem.search.gpu.filters import Filters, sorted_lists
from merlin_poeem.search.gpu.flat_pipeline import FlatPipeline
from merlin_poeem.search.gpu.flat_plan import FlatPlan, plan_flat
from merlin_poeem.search.gpu.own_process import OwnProcess
from merlin_poeem.search.gpu.results import Results, nothing_found
from merlin_poeem.search.gpu.workspace import Workspace
from merlin_poeem.search.item_set import ItemFilter, ItemSet, as_item_filter
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.request import check_flat
from merlin_poeem.search.shown import Shown

WORKSPACE_BYTES = 512 << 20


class FlatGpuSearcher(Shown):
    """A :class:`~merlin_poeem.FlatIndex` opened on a GPU, answering as the NumPy definition says.

    Opening copies vectors and ids to the device: a vector's values in steps of 16 bytes, 4 more for
    its scale unless they are float32, and 8 for its id. A search needs beside it at most
    ``workspace_bytes`` (4 bytes an item for each query of a chunk), its queries, and its results; a
    larger batch goes in chunks.

    Items with the same vector have the same score, to the bit. It belongs to the process that
    opened it: after a fork searches raise ``RuntimeError``.

    Parameters
    ----------
    index
        With vectors in any dtype, of any dimension.
    device
        None takes the current CUDA device, through CuPy.
    workspace_bytes
        The most device memory for the scores of a search.

    Raises
    ------
    ImportError, RuntimeError
        No CuPy, no GPU.
    MemoryError
        An index larger than the device's free memory.
    """

    backend = "gpu"
    on_device = True

    def __init__(
        self,
        index: FlatIndex,
        device: Device | None = None,
        *,
        workspace_bytes: int = WORKSPACE_BYTES,
    ) -> None:
        self.index = index
        self.device: Device = CupyDevice() if device is None else device
        self.workspace_bytes = positive_int("workspace_bytes", workspace_bytes)
        self._on_device = open_flat(index, self.device)
        self._process = OwnProcess()
        # Other streams than this one may be the next to read it.
        self.device.synchronize()

    @property
    def device_bytes(self) -> int:
        """Device memory that the index takes."""
        return self._on_device.n_bytes

    def plan(self, batch: int, k: int) -> FlatPlan:
        """How a search of ``batch`` queries would run; raises as :meth:`search` does.

        ``ValueError`` where the index holds no items.
        """
        batch, k, n_items = positive_int("batch", batch), positive_int("k", k), len(self.index)
        if not n_items:
            raise ValueError("index: expected one that holds items, got one without")
        return plan_flat(self.device.card, n_items, batch, min(k, n_items), self.workspace_bytes)

    def search(
        self,
        queries: Any,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """See :meth:`Searcher.search <merlin_poeem.Searcher.search>`.

        ``n_probes`` has to be None, and ``refine`` 0 or None. Results are where the queries are, as
        :meth:`GpuSearcher.search <merlin_poeem.search.gpu.searcher.GpuSearcher.search>` has them.
        ``k`` is at most 2,048 where the index has as many items; ``ValueError`` also where
        ``workspace_bytes`` does not hold the scores of one query.
        """
        self._process.check()
        check_flat(n_probes, refine)
        largest = largest_value(self.index.metric)
        matrix = as_vectors("queries", as_device_array(queries), self.index.dim, largest=largest)
        k = min(positive_int("k", k), max(1, len(self.index)))
        exclude = as_item_filter("exclude", exclude, len(matrix))
        allow = as_item_filter("allow", allow, len(matrix))
        if not len(matrix) or not len(self.index):
            return nothing_found(array_module(matrix), len(matrix))
        candidates = self._run(matrix, k, self._filters(exclude, allow)).candidates()
        return candidates.to_host() if array_module(matrix) is np else candidates

    def _run(self, matrix: Any, k: int, filters: Filters) -> Results:
        """Results of (n, dim) queries that were checked; neither they nor the index are empty."""
        device, plan = self.device, self.plan(len(matrix), k)
        queries = device.xp.asarray(matrix)
        results = Results.empty(device, len(queries), k)
        pieces = Workspace(device.xp, plan.workspace_bytes).pieces()
        pipeline = FlatPipeline(device, self._on_device, plan, k, pieces)
        for start in range(0, len(queries), plan.chunk):
            chunk = slice(start, min(start + plan.chunk, len(queries)))
            pipeline.run(self._prepared(queries[chunk]), results[chunk], filters[chunk])
        return results

    def _prepared(self, queries: Any) -> Any:
        """As the vectors are: of unit length under cosine, and counted from their origin."""
        if self.index.metric == "cosine":
            queries = normalize(queries)
        origin = self._on_device.origin
        return queries if origin is None else queries - origin

    def _filters(self, exclude: ItemFilter | None, allow: ItemFilter | None) -> Filters:
        both = exclude, allow
        sets = (each if isinstance(each, ItemSet) else None for each in both)
        lists = (each if isinstance(each, IdLists) else None for each in both)
        mask = self._on_device.items.eligible_mask(self.device, *sets)
        parts = (part for each in lists for part in sorted_lists(self.device.xp, each))
        return Filters(mask, *parts)
