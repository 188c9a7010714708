"""The kernels of one exact search, in their order: scores → best of parts → results."""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.device_flat import DeviceFlat
from merlin_poeem.search.gpu.filters import Filters
from merlin_poeem.search.gpu.flat_plan import BLOCK_QUERIES, BLOCK_ROWS, FlatPlan, padded_rows
from merlin_poeem.search.gpu.kernels import score_items_name
from merlin_poeem.search.gpu.results import Results
from merlin_poeem.search.gpu.shared_memory import THREADS
from merlin_poeem.search.gpu.workspace import Pieces

BLOCK = (THREADS,)


class FlatPipeline:
    """The launches of one plan, with the memory for its scores.

    ``k`` is that which ``plan`` was made for; ``pieces`` has ``plan.workspace_bytes`` left.
    """

    def __init__(
        self, device: Device, index: DeviceFlat, plan: FlatPlan, k: int, pieces: Pieces
    ) -> None:
        self._device, self._index, self._plan, self._k = device, index, plan, np.int32(k)
        n, n_parts = plan.chunk, plan.n_parts
        self._n_rows = padded_rows(len(index.items.item_ids))
        self._scores = pieces.take((n, self._n_rows), np.float32)
        self._parts: tuple[Any, Any, Any] = (None, None, None)
        if n_parts > 1:
            self._parts = (
                pieces.take((n, n_parts, k), np.float32),
                pieces.take((n, n_parts, k), np.uint32),
                pieces.take((n, n_parts), np.int32),
            )

    def run(self, queries: Any, results: Results, filters: Filters) -> None:
        """Search for (n, dim) float32 ``queries``, prepared, no more than a chunk."""
        self._score_items(queries)
        outputs = results.scores, results.item_ids, results.counts
        if self._plan.n_parts == 1:
            self._choose_items(len(queries), filters, outputs)
        else:
            self._choose_items(len(queries), filters, (None, None, None))
            self._merge_parts(len(queries), outputs)

    def _score_items(self, queries: Any) -> None:
        index, (n, dim) = self._index, queries.shape
        n_blocks = -(-n // BLOCK_QUERIES) * (self._n_rows // BLOCK_ROWS)
        self._device.kernel("flat.cu", score_items_name(index.value_bytes, index.is_l2))(
            (n_blocks,),
            BLOCK,
            (
                *(queries, index.vectors, index.scales, np.int32(n), np.int32(dim)),
                *(np.int32(index.vectors.shape[1]), np.uint32(self._n_rows), self._scores),
            ),
        )

    def _choose_items(self, n: int, filters: Filters, outputs: tuple[Any, Any, Any]) -> None:
        item_ids, plan = self._index.items.item_ids, self._plan
        self._device.kernel("flat.cu", "choose_items")(
            (n * plan.n_parts,),
            BLOCK,
            (
                *(self._scores, item_ids, filters.eligible_mask),
                *(filters.exclude_offsets, filters.exclude_ids),
                *(filters.allow_offsets, filters.allow_ids),
                *(np.uint32(len(item_ids)), np.uint32(self._n_rows), np.int32(plan.n_parts)),
                *(self._k, np.int32(plan.capacity), *self._parts, *outputs),
            ),
            shared_bytes=plan.shared_bytes,
        )

    def _merge_parts(self, n: int, outputs: tuple[Any, Any, Any]) -> None:
        plan = self._plan
        self._device.kernel("merge.cu", "merge_parts")(
            (n,),
            BLOCK,
            (
                *(*self._parts, self._index.items.item_ids),
                *(np.int32(plan.n_parts), self._k, np.int32(plan.capacity), *outputs),
            ),
            shared_bytes=plan.shared_bytes,
        )
