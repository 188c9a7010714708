"""Search from frame to frame: what a frame costs beside the same search of an array."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.search_gpu.grid import Setting
from benchmarks.search_gpu.machine import Machine
from benchmarks.search_gpu.memory_pool import use_memory_pool
from benchmarks.search_gpu.ours import OURS, our_backend
from benchmarks.search_gpu.rows import Row, add_times, start_row
from benchmarks.search_gpu.timing import take_turns
from merlin_poeem import search_frame
from merlin_poeem.search.gpu.searcher import GpuSearcher

FRAMES = "gpu (frames)"
# Bulk searches whose frames are timed.
FRAME_BATCH = 1024


def frames_row(searcher: GpuSearcher, setting: Setting, queries: Any, machine: Machine) -> Row:
    """A search of frames, cuDF's where it is installed, by the wall clock.

    All of it on the default stream: cuDF works there, and the stream that is current here waits for
    no other.
    """
    machine.device.synchronize()
    with _default_stream(machine.xp):
        return _frames_row(searcher, setting, queries, machine)


def _frames_row(searcher: GpuSearcher, setting: Setting, queries: Any, machine: Machine) -> Row:
    k, n_probes = setting.k, setting.n_probes
    row = start_row(our_backend(searcher), setting, searcher, machine) | {"backend": FRAMES}
    module = _frame_library(machine.xp)
    if module is None:
        return add_times(row | {"note": "missing: cudf"}, None, None)
    names = [f"v{j}" for j in range(setting.dim)]
    frame = module.DataFrame(queries, columns=names)

    def search_frames() -> Any:
        return search_frame(searcher, frame, vectors=names, k=k, n_probes=n_probes)

    def search() -> Any:
        return searcher.search(queries, k=k, n_probes=n_probes)

    if machine.is_emulated:
        search_frames()
        return add_times(row, None, None)
    seconds = take_turns({FRAMES: (search_frames, False), OURS: (search, False)}, machine.xp)
    row["frame_overhead"] = seconds[FRAMES] / seconds[OURS] - 1
    return add_times(row, seconds[FRAMES], seconds[OURS])


def _frame_library(xp: ModuleType) -> ModuleType | None:
    """cuDF for arrays on a GPU, pandas where the device is emulated."""
    try:
        if xp is np:
            import pandas

            return pandas
        use_memory_pool()  # cuDF makes CuPy take its arrays from RMM
        import cudf

        return cudf
    except ImportError:
        return None


def _default_stream(xp: ModuleType) -> AbstractContextManager[Any]:
    """Makes the default stream the current one; nothing where the device is emulated."""
    if xp.__name__ != "cupy":
        return nullcontext()
    stream: AbstractContextManager[Any] = xp.cuda.Stream.null
    return stream
