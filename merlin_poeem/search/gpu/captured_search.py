"""A search recorded as a CUDA graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.device_index import DeviceIndex
from merlin_poeem.search.gpu.filters import Filters
from merlin_poeem.search.gpu.pipeline import Pipeline
from merlin_poeem.search.gpu.plan import SearchPlan
from merlin_poeem.search.gpu.results import Results


class CapturedSearch:
    """A search recorded as a CUDA graph: always of the same arrays.

    One thread at a time may use it, and the results stand until the next :meth:`replay`.
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
    ) -> None:
        held = min(k, index.shape.n_items)
        self.queries = device.xp.zeros((batch, index.shape.dim), np.float32)
        self.results = Results.empty(device, batch, held)
        pipeline, filters = Pipeline(device, index, plan, held, n_probes), Filters(eligible_mask)
        # Once before it is recorded: kernels are compiled and loaded when they are first used.
        pipeline.run(self.queries, self.results, filters)
        # The graph knows addresses alone: what lies there has to stay.
        self._kept = pipeline, filters
        self._replay = device.capture(lambda: pipeline.run(self.queries, self.results, filters))

    def replay(self) -> None:
        """Search for what ``queries`` holds, on the current stream, without waiting for it."""
        self._replay()
