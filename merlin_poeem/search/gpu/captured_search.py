"""A search recorded as a CUDA graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.device_index import DeviceIndex
from merlin_poeem.search.gpu.filters import Filters
from merlin_poeem.search.gpu.own_process import OwnProcess
from merlin_poeem.search.gpu.pipeline import Pipeline
from merlin_poeem.search.gpu.plan import SearchPlan
from merlin_poeem.search.gpu.results import Results, results_bytes
from merlin_poeem.search.gpu.workspace import ALIGNMENT, Workspace


class CapturedSearch:
    """A search recorded as a CUDA graph: always of the same arrays, in ``workspace``.

    One thread at a time may use it, and the results stand until the next :meth:`replay`, or the
    next use of ``workspace``.
    """

    queries: Any
    """(batch, dim) float32 on the device: fill it before :meth:`replay`."""
    results: Results

    def __init__(
        self,
        device: Device,
        index: DeviceIndex,
        plan: SearchPlan,
        batch: int,
        k: int,
        n_probes: int,
        eligible_mask: Any,
        workspace: Workspace | None = None,
    ) -> None:
        held = min(k, index.shape.n_items)
        if workspace is None:
            workspace = Workspace(device.xp, captured_bytes(plan, index.shape.dim, batch, held))
        pieces = workspace.pieces()
        self.queries = pieces.take((batch, index.shape.dim), np.float32)
        self._memory = pieces.take(results_bytes(batch, held), np.uint8)
        self.results = Results.within(device, self._memory, batch, batch, held)
        # Queries of NaN have no answer, and take no time.
        self.queries[:] = np.nan
        pipeline = Pipeline(device, index, plan, held, n_probes, pieces)
        filters = Filters(eligible_mask)
        # Once before it is recorded: kernels are compiled and loaded when they are first used.
        pipeline.run(self.queries, self.results, filters)
        # The graph knows addresses alone: what lies there has to stay.
        self._kept = workspace, pipeline, filters
        self._device = device
        self._replay = device.capture(lambda: pipeline.run(self.queries, self.results, filters))
        self._process = OwnProcess()

    def replay(self) -> None:
        """Search for what ``queries`` holds, on the current stream, without waiting for it.

        Raises ``RuntimeError`` in another process than that of the recording.
        """
        self._process.check()
        self._replay()

    def search(self, queries: Any) -> Results:
        """The results of (n, dim) ``queries``, ``n`` up to the batch, in memory of their own.

        On the current stream, without waiting for it.
        """
        n, (batch, k) = len(queries), self.results.scores.shape
        if n < batch:
            # Each time: another search may have used the workspace since.
            self.queries[n:] = np.nan
        # Without slices and NumPy's ways of assigning: of the host's time every call is a part.
        self._device.copy(self.queries, queries)
        self._replay()
        memory = self._device.xp.empty(len(self._memory), np.uint8)
        self._device.copy(memory, self._memory)
        return Results.within(self._device, memory, batch, n, k)


def captured_bytes(plan: SearchPlan, dim: int, batch: int, k: int) -> int:
    """Memory of a graph: its workspace, its queries and its results."""
    queries_and_results = 4 * dim * batch + results_bytes(batch, k)
    return plan.workspace_bytes + queries_and_results + 2 * ALIGNMENT
