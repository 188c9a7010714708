"""The GPU searcher on emulated devices: as planned for a card, and made to take every other way."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from merlin_poeem import FlatIndex, Index
from merlin_poeem.search.gpu.bulk_plan import BulkPlan
from merlin_poeem.search.gpu.device import CupyDevice, Device
from merlin_poeem.search.gpu.flat import FlatGpuSearcher
from merlin_poeem.search.gpu.flat_plan import MAX_ARRAYS, FlatPlan, bytes_per_query
from merlin_poeem.search.gpu.plan import (
    SearchPlan,
    workspace_bytes_for_all,
    workspace_bytes_per_query,
)
from merlin_poeem.search.gpu.searcher import GpuSearcher
from merlin_poeem.search.gpu.shared_memory import lut_shared_bytes
from merlin_poeem.search.gpu.workspace import ALIGNMENT
from tests.device_arrays import hidden, on_device
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import EmulatedDevice, Order


class ReplannedSearcher(GpuSearcher):
    """A GPU searcher whose plans are altered: small tests take the ways of large searches."""

    def __init__(self, index: Index, device: Device, **changes: Any) -> None:
        self.changes = changes
        super().__init__(index, device)

    def plan(
        self,
        batch: int,
        k: int,
        n_probes: int | None = None,
        *,
        refine: int | None = None,
        id_lists: bool = False,
    ) -> SearchPlan:
        """The plan with ``changes``, its sizes in agreement."""
        planned = super().plan(batch, k, n_probes, refine=refine, id_lists=id_lists)
        plan = replace(planned, **self.changes)
        shape = self._on_device.shape
        in_bulk = shape.fixed_point and not id_lists and self._has_two_lists(n_probes)
        if plan.bulk is not None and not in_bulk:
            plan = replace(plan, path="scan", bulk=None)
        lut_bytes = lut_shared_bytes(shape.code_bytes, plan.lut_layout)
        chunk = min(plan.chunk, batch)
        held, lists = min(k, shape.n_items), self._check_n_probes(n_probes)
        refined = plan.n_candidates > 0
        per_query = workspace_bytes_per_query(
            shape, plan.n_candidates or held, lists, plan.n_parts, plan.bulk, refined=refined
        )
        return replace(
            plan,
            lut_bytes=lut_bytes,
            shared_bytes=plan.shared_bytes - plan.lut_bytes + lut_bytes,
            chunk=chunk,
            workspace_bytes=workspace_bytes_for_all(shape, plan.bulk) + chunk * per_query,
        )

    def _has_two_lists(self, n_probes: int | None) -> bool:
        return (self.index.params.n_probes if n_probes is None else n_probes) > 1


class ReplannedFlat(FlatGpuSearcher):
    """The same of a flat index."""

    def __init__(self, index: FlatIndex, device: Device, **changes: Any) -> None:
        self.changes = changes
        super().__init__(index, device)

    def plan(self, batch: int, k: int) -> FlatPlan:
        """The plan with ``changes``, its sizes in agreement."""
        plan = replace(super().plan(batch, k), **self.changes)
        n_items, chunk = self.index.n_items, min(plan.chunk, batch)
        per_query = bytes_per_query(n_items, min(k, n_items), plan.n_parts)
        return replace(
            plan, chunk=chunk, workspace_bytes=ALIGNMENT * MAX_ARRAYS + chunk * per_query
        )


needs_compiler = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


class RecordingDevice(EmulatedDevice):
    """Counts the graphs that it records."""

    n_captures = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.n_captures += 1
        return super().capture(work)

    def n_launches(self, name: str) -> int:
        return sum(launch.name == name for launch in self.launches)


def open_emulated(index: Index, **arguments: Any) -> GpuSearcher:
    return GpuSearcher(index, RecordingDevice(), **arguments)


def opener(order: Order, **changes: Any) -> Callable[[Index], GpuSearcher]:
    """Opens an index on a device that takes threads in ``order``, with ``changes`` to the plans."""

    def open_emulated(index: Index) -> GpuSearcher:
        if COMPILER is None:
            pytest.skip(NO_COMPILER)
        return ReplannedSearcher(index, EmulatedDevice(order), **changes)

    return open_emulated


def flat_opener(order: Order, **changes: Any) -> Callable[[FlatIndex], FlatGpuSearcher]:
    """The same of a flat index."""

    def open_emulated(index: FlatIndex) -> FlatGpuSearcher:
        if COMPILER is None:
            pytest.skip(NO_COMPILER)
        return ReplannedFlat(index, EmulatedDevice(order), **changes)

    return open_emulated


class StandInDevice(EmulatedDevice):
    """An emulated device with the arrays of the stand-in for CuPy; those of the host are none."""

    def __init__(self, cupy: ModuleType, order: Order = "forward") -> None:
        super().__init__(order)
        self.xp = cupy

    def view(self, memory: Any, start: int, shape: Any, dtype: Any) -> Any:
        """See ``Device.view``."""
        return on_device(super().view(hidden(memory), start, shape, dtype))

    def copy(self, target: Any, source: Any) -> None:
        """See ``Device.copy``."""
        super().copy(hidden(target), hidden(source))

    def kernel(self, file: str, name: str) -> Any:
        """See ``Device.kernel``."""
        kernel = super().kernel(file, name)

        def launch(grid: Any, block: Any, args: Any, shared_bytes: int = 0) -> None:
            assert not any(isinstance(arg, np.ndarray) for arg in args)
            kernel(grid, block, [hidden(arg) for arg in args], shared_bytes)

        return launch


SPLIT = {"n_parts": 3, "captured_batch": None, "chunk": 5, "sorts_probes": False}
# Few candidates have room: with some searches all of them do, with others the lists are scanned.
BULK = {"path": "bulk", "bulk": BulkPlan(1, 64), "captured_batch": None}
COMPACT = {"lut_layout": "compact", "captured_batch": None}


def _open_card() -> tuple[CupyDevice | None, str]:
    """The GPU of this machine; None, and what is missing."""
    try:
        return CupyDevice(), ""
    except (ImportError, RuntimeError) as error:
        return None, str(error)


# One for all tests: a kernel is compiled and loaded once.
CARD, NO_GPU = _open_card()


def card_opener(
    kind: Callable[..., GpuSearcher] = ReplannedSearcher, **changes: Any
) -> Callable[[Index], GpuSearcher]:
    """Opens an index on the GPU of this machine, where it has one."""

    def open_on_card(index: Index) -> GpuSearcher:
        if CARD is None:
            pytest.skip(NO_GPU)
        return kind(index, CARD, **changes)

    return open_on_card


def flat_card_opener(**changes: Any) -> Callable[[FlatIndex], FlatGpuSearcher]:
    """The same of a flat index."""

    def open_on_card(index: FlatIndex) -> FlatGpuSearcher:
        if CARD is None:
            pytest.skip(NO_GPU)
        return ReplannedFlat(index, CARD, **changes)

    return open_on_card


class OnAnotherStream(GpuSearcher):
    """Searches on a stream of its own, which no other stream waits for."""

    def __init__(self, index: Index, device: CupyDevice) -> None:
        super().__init__(index, device)
        self._own_stream = device.xp.cuda.Stream(non_blocking=True)

    def search(self, queries: Any, **arguments: Any) -> Any:
        with self._own_stream:
            return super().search(queries, **arguments)


class DlpackAlone:
    """An array that can be asked for nothing but DLPack."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class GivenDlpack(GpuSearcher):
    """Searches queries that another library has on the device; its answers come to the host."""

    def search(self, queries: Any, **arguments: Any) -> Any:
        on_device = DlpackAlone(self.device.xp.asarray(queries))
        return super().search(on_device, **arguments).to_host()


# What tells their tests from one another: the words of benchmarks/card_check/contract.py.
CARD_OPENERS: dict[str, Callable[[Index], GpuSearcher]] = {
    "gpu, on this machine's card": card_opener(GpuSearcher),
    "gpu, on this machine's card, lists split": card_opener(**SPLIT),
    "gpu, on this machine's card, compact LUT": card_opener(**COMPACT),
    "gpu, on this machine's card, in bulk": card_opener(**BULK),
    "gpu, on this machine's card, in chunks": card_opener(chunk=7, captured_batch=None),
    "gpu, on this machine's card, on another stream": card_opener(OnAnotherStream),
    "gpu, on this machine's card, given DLPack": card_opener(GivenDlpack),
}

# All ways run in the current environment. The kernels are the same in the pinned one, and so are
# the arrays that they are given: there, what NumPy 1.24 may change is seen in one way.
OTHER_WAYS: dict[str, Callable[[Index], GpuSearcher]] = {
    "gpu, reverse order, lists split": opener("reverse", **SPLIT),
    "gpu, random order, compact LUT": opener("random", **COMPACT),
    "gpu, reverse order, in bulk": opener("reverse", **BULK),
}
GPU_OPENERS: dict[str, Callable[[Index], GpuSearcher]] = {
    **CARD_OPENERS,
    "gpu": opener("forward"),
    **({} if find_spec("tensorflow") else OTHER_WAYS),
}
FLAT_SPLIT = {"n_parts": 3, "chunk": 5}
FLAT_GPU_OPENERS: dict[str, Callable[[FlatIndex], FlatGpuSearcher]] = {
    "gpu, on this machine's card": flat_card_opener(),
    "gpu, on this machine's card, items split": flat_card_opener(**FLAT_SPLIT),
    "gpu": flat_opener("forward"),
    **(
        {}
        if find_spec("tensorflow")
        else {
            "gpu, reverse order, items split": flat_opener("reverse", **FLAT_SPLIT),
            "gpu, random order": flat_opener("random"),
        }
    ),
}
