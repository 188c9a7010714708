"""Search on an NVIDIA GPU with kernels of our own, from device arrays to device arrays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from copy import copy
from functools import partial
from threading import RLock
from typing import Any

import numpy as np

from merlin_poeem.arrays import array_module, as_vectors, largest_value, normalize, to_host
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.params import check_n_probes, positive_int
from merlin_poeem.search.gpu.captured_search import CapturedSearch, captured_bytes
from merlin_poeem.search.gpu.device import CupyDevice, Device
from merlin_poeem.search.gpu.device_index import DeviceIndex, open_on_device
from merlin_poeem.search.gpu.device_queries import as_device_array
from merlin_poeem.search.gpu.filters import Filters, sorted_lists
from merlin_poeem.search.gpu.kept_searches import KeptSearches
from merlin_poeem.search.gpu.own_process import OwnProcess
from merlin_poeem.search.gpu.pipeline import Pipeline
from merlin_poeem.search.gpu.plan import (
    MAX_CAPTURED_BATCH,
    SearchPlan,
    candidates_of,
    graph_batch,
    plan_search,
)
from merlin_poeem.search.gpu.results import Results, nothing_found
from merlin_poeem.search.item_set import ItemFilter, ItemSet, as_item_filter
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.request import check_refine
from merlin_poeem.search.second_look import refine_candidates
from merlin_poeem.search.shown import Shown

WORKSPACE_BYTES = 512 << 20
# What is kept for searches that come again: bitmaps of item sets, and streams with their searches.
KEPT_MASKS = 8
KEPT_STREAMS = 8


class GpuSearcher(Shown):
    """An index opened on a GPU, answering as :mod:`merlin_poeem.search.reference` defines.

    Opening copies codes and item ids to the device: ``pq_dim`` bytes an item (half of it with 4-bit
    codes), 8 for its id, 1 for its scale (without scales 4 for a ``cosine`` or ``l2`` index), and a
    few percent where lists are short. Where the index holds vectors, it copies those too: their
    values in steps of 16 bytes, and 20 bytes an item more. A search needs beside it at most
    ``workspace_bytes``, its queries and its results; a larger batch goes in chunks. That memory is
    kept for the next search on the same stream, for up to eight streams.

    Items with the same list and codes, or in a second look the same vector, have the same score, to
    the bit, on every path. It belongs to the process that opened it: after a fork searches raise
    ``RuntimeError``.

    Parameters
    ----------
    index
        Codes of up to 8 bits, in up to 64 bytes.
    device
        None takes the current CUDA device, through CuPy.
    workspace_bytes
        The most device memory for the intermediate results of a search.
    vectors_on_device
        Whether vectors are copied. False leaves them in the host's memory: :meth:`search` then
        looks again there, at candidates that come from the device, which takes the time of the copy
        and of the host; searches that wait for nothing cannot look twice.

    Raises
    ------
    ImportError, RuntimeError
        No CuPy, no GPU.
    ValueError
        Codes that the kernels do not support.
    MemoryError
        An index larger than the device's free memory, its vectors counted where they are copied.
    """

    backend = "gpu"
    on_device = True

    def __init__(
        self,
        index: Index,
        device: Device | None = None,
        *,
        workspace_bytes: int = WORKSPACE_BYTES,
        vectors_on_device: bool = True,
    ) -> None:
        self.index = index
        self.device: Device = CupyDevice() if device is None else device
        self.workspace_bytes = positive_int("workspace_bytes", workspace_bytes)
        self._on_device: DeviceIndex = open_on_device(
            index, self.device, with_vectors=vectors_on_device
        )
        self._removed: ItemSet | None = None
        self._process = OwnProcess()
        # Other streams than this one may be the next to read it.
        self.device.synchronize()
        self._keep_nothing()

    @property
    def device_bytes(self) -> int:
        """Device memory that the index takes."""
        return self._on_device.n_bytes

    def plan(
        self,
        batch: int,
        k: int,
        n_probes: int | None = None,
        *,
        refine: int | None = None,
        id_lists: bool = False,
    ) -> SearchPlan:
        """How a search of ``batch`` queries would run; ``id_lists``: with lists of ids for each.

        Of what runs on the device: where vectors stay on the host, the search for candidates.
        Raises as :meth:`search` does.
        """
        batch, k = positive_int("batch", batch), positive_int("k", k)
        shape, refine = self._on_device.shape, self._check_refine(k, refine)
        k = max(1, min(k, shape.n_items))
        if self._looks_on_host(refine):
            k, refine = candidates_of(shape, k, refine), 0
        return plan_search(
            self.device.card,
            shape,
            batch,
            k,
            self._check_n_probes(n_probes),
            self.workspace_bytes,
            refine=refine,
            id_lists=id_lists,
        )

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

        ``queries`` in host memory give results in host memory, as NumPy arrays. Queries on the
        device (CuPy, or any array with ``__cuda_array_interface__`` or DLPack, such as Torch's and
        TensorFlow's) give CuPy arrays, and nothing but the numbers of results is read by the host.
        ``k``, and ``refine`` times it, are at most 2,048 where the index has as many items.
        """
        self._process.check()
        largest = largest_value(self.index.params.metric)
        matrix = as_vectors("queries", as_device_array(queries), self.index.dim, largest=largest)
        given_on_device = array_module(matrix) is not np
        k = positive_int("k", k)
        n_probes, refine = self._check_n_probes(n_probes), self._check_refine(k, refine)
        k = min(k, max(1, len(self.index)))
        exclude = as_item_filter("exclude", exclude, len(matrix))
        allow = as_item_filter("allow", allow, len(matrix))
        if not len(matrix) or not len(self.index):
            return nothing_found(array_module(matrix), len(matrix))
        if self._looks_on_host(refine):
            n_candidates = candidates_of(self._on_device.shape, k, refine)
            results = self._run(matrix, n_candidates, n_probes, 0, exclude, allow)
            candidates = self._look_again_on_host(matrix, results, k)
            return candidates.to_device(self.device.xp) if given_on_device else candidates
        results = self._run(matrix, k, n_probes, refine, exclude, allow)
        candidates = results.candidates()
        return candidates if given_on_device else candidates.to_host()

    def search_padded(
        self,
        queries: Any,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Results:
        """As :meth:`search`, but asynchronous: on the current stream, without waiting for it.

        ``queries`` are (n, dim) float32 on the device. They are not looked at: one with NaN or
        infinite values gets no results. Places without a result hold −inf and −1; ``counts`` says
        how many each query has. ``ValueError`` for a second look at vectors that stayed on the
        host, which would have to be waited for.
        """
        self._process.check()
        xp = self.device.xp
        matrix = xp.asarray(as_device_array(queries))
        if matrix.dtype != np.float32:
            raise TypeError(f"queries: expected float32, got {matrix.dtype}")
        if matrix.ndim != 2 or matrix.shape[1] != self.index.dim:
            raise ValueError(f"queries: expected shape (n, {self.index.dim}), got {matrix.shape}")
        k, n_probes = positive_int("k", k), self._check_n_probes(n_probes)
        refine = self._check_refine_on_device(k, refine)
        exclude = as_item_filter("exclude", exclude, len(matrix))
        allow = as_item_filter("allow", allow, len(matrix))
        held = min(k, len(self.index))
        if held and len(matrix):
            found = self._run(matrix, held, n_probes, refine, exclude, allow)
            if held == k:
                return found
        results = Results.empty(self.device, len(matrix), k)
        results.scores[:], results.item_ids[:], results.counts[:] = -np.inf, -1, 0
        if held and len(matrix):
            results.scores[:, :held], results.item_ids[:, :held] = found.scores, found.item_ids
            results.counts[:] = found.counts
        return results

    def capture(
        self, batch: int, k: int, n_probes: int | None = None, *, refine: int | None = None
    ) -> CapturedSearch:
        """A search of exactly ``batch`` queries, recorded as a CUDA graph, in memory of its own.

        For the lowest latency: fill ``queries``, call ``replay()``, read the results, all on one
        stream, and keep the object until that stream is done with it. Raises as
        :meth:`search` does, and ``ValueError`` for a batch above 16,384 or more than fits in
        ``workspace_bytes``, an index without items, or a second look at vectors that stayed on the
        host.
        """
        self._process.check()
        refine = self._check_refine_on_device(positive_int("k", k), refine)
        plan = self.plan(batch, k, n_probes, refine=refine)
        if plan.captured_batch is None or not len(self.index):
            raise ValueError(
                f"batch: expected 1 to {MAX_CAPTURED_BATCH}, no more than fit in workspace_bytes = "
                f"{self.workspace_bytes}, and an index that holds items; got {batch} and "
                f"{len(self.index)} items"
            )
        n_probes = self._check_n_probes(n_probes)
        mask = self._eligible_mask(None, None)
        captured = CapturedSearch(self.device, self._on_device, plan, batch, k, n_probes, mask)
        # It may be replayed on another stream than this one, which has run it once.
        self.device.synchronize()
        return captured

    def without(self, item_ids: Any) -> GpuSearcher:
        """A searcher that never returns these items either, over the same device memory.

        For items that are to disappear at once. They still take part in the scan: from time to time
        open a searcher on ``index.remove(...)``. ``index`` stays the one that was opened. Ids that
        it does not hold are no error.
        """
        removed = ItemSet(item_ids)
        if self._removed is not None:
            removed = ItemSet(np.concatenate([self._removed.item_ids, removed.item_ids]))
        other = copy(self)
        other._removed = removed
        other._keep_nothing()
        return other

    def _keep_nothing(self) -> None:
        self._masks: OrderedDict[Hashable, Any] = OrderedDict()
        self._streams: OrderedDict[Hashable, KeptSearches] = OrderedDict()
        self._lock = RLock()

    def _check_n_probes(self, n_probes: int | None) -> int:
        default = self.index.params.n_probes
        return check_n_probes(default if n_probes is None else n_probes, self.index.n_lists)

    def _check_refine(self, k: int, refine: int | None) -> int:
        return self.index.refine_of(k) if refine is None else check_refine(self.index, refine)

    def _check_refine_on_device(self, k: int, refine: int | None) -> int:
        refine = self._check_refine(k, refine)
        if self._looks_on_host(refine):
            raise ValueError(
                f"refine: expected 0, as the vectors stayed on the host (vectors_on_device=False), "
                f"where a second look has to be waited for; got {refine}: open the searcher with "
                "vectors_on_device=True, or use search"
            )
        return refine

    def _looks_on_host(self, refine: int) -> bool:
        return refine > 0 and self._on_device.vectors is None

    def _look_again_on_host(self, matrix: Any, results: Results, k: int) -> Candidates:
        """The ``k`` best of candidates by the host's vectors; in NumPy, as all it is given is."""
        candidates = results.candidates().to_host()
        queries = to_host(matrix)
        if self.index.params.metric == "cosine":
            queries = normalize(queries)
        queries_rot = self.index.quantization.rotate_queries(queries)
        return refine_candidates(self.index, queries_rot, candidates, k)

    def _run(
        self,
        queries: Any,
        k: int,
        n_probes: int,
        refine: int,
        exclude: ItemFilter | None,
        allow: ItemFilter | None,
    ) -> Results:
        """Results of (n, dim) queries that were checked; neither they nor the index are empty."""
        xp = self.device.xp
        matrix = xp.ascontiguousarray(xp.asarray(queries))
        # One thread at a time: the memory that is kept is filled, used and copied in the order of
        # the one stream that it is for.
        with self._lock:
            kept = self._searches_of_stream()
            if exclude is None and allow is None and len(matrix) <= MAX_CAPTURED_BATCH:
                captured = self._captured(kept, graph_batch(len(matrix)), k, n_probes, refine)
                if captured is not None:
                    return captured.search(matrix)
            id_lists = isinstance(exclude, IdLists) or isinstance(allow, IdLists)
            filters = self._filters(exclude, allow, by_ranks=refine > 0)
            results = Results.empty(self.device, len(matrix), k)
            pipeline = self._pipeline(kept, len(matrix), k, n_probes, refine, id_lists)
            pipeline.run(matrix, results, filters)
            return results

    def _searches_of_stream(self) -> KeptSearches:
        stream = self.device.stream_id()
        if stream not in self._streams:
            self._streams[stream] = KeptSearches(self.device.xp, self.workspace_bytes)
            if len(self._streams) > KEPT_STREAMS:
                self._streams.popitem(last=False)
        self._streams.move_to_end(stream)
        return self._streams[stream]

    def _captured(
        self, kept: KeptSearches, batch: int, k: int, n_probes: int, refine: int
    ) -> CapturedSearch | None:
        """The graph for ``batch`` queries; None where they do not fit in the workspace at once."""

        def capture() -> CapturedSearch | None:
            plan = self.plan(batch, k, n_probes, refine=refine)
            if plan.captured_batch is None:
                return None
            needed = captured_bytes(plan, self.index.dim, batch, k)
            workspace, mask = kept.workspace(needed), self._eligible_mask(None, None)
            device, index = self.device, self._on_device
            return CapturedSearch(device, index, plan, batch, k, n_probes, mask, workspace)

        return kept.graph((batch, k, n_probes, refine), capture)

    def _pipeline(
        self,
        kept: KeptSearches,
        batch: int,
        k: int,
        n_probes: int,
        refine: int,
        id_lists: bool,
    ) -> Pipeline:
        def cut() -> Pipeline:
            plan = self.plan(batch, k, n_probes, refine=refine, id_lists=id_lists)
            pieces = kept.workspace(plan.workspace_bytes).pieces()
            return Pipeline(self.device, self._on_device, plan, k, n_probes, pieces)

        return kept.pipeline((batch, k, n_probes, refine, id_lists), cut)

    def _filters(
        self, exclude: ItemFilter | None, allow: ItemFilter | None, *, by_ranks: bool
    ) -> Filters:
        """``by_ranks``: lists are of ranks, as a second look's candidates are."""
        sets = [each if isinstance(each, ItemSet) else None for each in (exclude, allow)]
        lists = [each if isinstance(each, IdLists) else None for each in (exclude, allow)]
        mask = self._eligible_mask(*sets)
        xp, vectors = self.device.xp, self._on_device.vectors
        number_of = None
        if by_ranks:
            assert vectors is not None
            number_of = partial(vectors.ranks_of, xp)
        parts = (part for each in lists for part in sorted_lists(xp, each, number_of))
        return Filters(mask, *parts)

    def _eligible_mask(self, exclude: ItemSet | None, allow: ItemSet | None) -> Any:
        # A mask belongs to the stream that it is made on, as its memory does.
        key = (self.device.stream_id(), exclude, allow)
        with self._lock:
            if key not in self._masks:
                if self._removed is not None:
                    ids = [each.item_ids for each in (self._removed, exclude) if each is not None]
                    exclude = ItemSet(np.concatenate(ids))
                self._masks[key] = self._on_device.items.eligible_mask(self.device, exclude, allow)
            self._masks.move_to_end(key)
            if len(self._masks) > KEPT_MASKS:
                self._masks.popitem(last=False)
            return self._masks[key]
