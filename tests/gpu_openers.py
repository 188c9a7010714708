"""The GPU searcher on emulated devices: as planned for a card, and made to take every other way."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from merlin_poeem import Index
from merlin_poeem.search.gpu import GpuSearcher
from merlin_poeem.search.plan import SearchPlan, lut_shared_bytes
from tests.emulation.device import COMPILER, NO_COMPILER, EmulatedDevice, Order


class ReplannedSearcher(GpuSearcher):
    """A GPU searcher whose plans are altered: small tests take the ways of large searches."""

    def __init__(self, index: Index, device: EmulatedDevice, **changes: Any) -> None:
        self.changes = changes
        super().__init__(index, device)

    def plan(self, batch: int, k: int, n_probes: int | None = None) -> SearchPlan:
        """The plan with ``changes``, its sizes in agreement."""
        plan = replace(super().plan(batch, k, n_probes), **self.changes)
        lut_bytes = lut_shared_bytes(self._on_device.shape.code_bytes, plan.lut_layout)
        return replace(
            plan,
            lut_bytes=lut_bytes,
            shared_bytes=plan.shared_bytes - plan.lut_bytes + lut_bytes,
            chunk=min(plan.chunk, batch),
        )


def opener(order: Order, **changes: Any) -> Callable[[Index], GpuSearcher]:
    """Opens an index on a device that takes threads in ``order``, with ``changes`` to the plans."""

    def open_emulated(index: Index) -> GpuSearcher:
        if COMPILER is None:
            pytest.skip(NO_COMPILER)
        return ReplannedSearcher(index, EmulatedDevice(order), **changes)

    return open_emulated


SPLIT = {"n_parts": 3, "captured_batch": None, "chunk": 5, "sorts_probes": False}
COMPACT = {"lut_layout": "compact", "captured_batch": None, "library_products": True}

GPU_OPENERS: dict[str, Callable[[Index], GpuSearcher]] = {
    "gpu": opener("forward"),
    "gpu, reverse order, lists split": opener("reverse", **SPLIT),
    "gpu, random order, compact LUT": opener("random", **COMPACT),
}
