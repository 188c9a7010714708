"""Step: every kernel, compiled on this machine for this card."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.card_check.checks import Checks
from merlin_poeem.search.gpu.kernels import every_kernel

# What g++ makes for the emulation takes long, and shows less.
EMULATED = ("prepare_queries", "choose_lists", "merge_parts")


def run(checks: Checks) -> None:
    """Each kernel a line, all of them in threads: NVRTC and g++ let other threads go on."""
    device = checks.device
    wanted = every_kernel()
    if checks.emulate:
        wanted = [(file, name) for file, name in wanted if name in EMULATED]
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, name in wanted:
            pool.submit(checks.run, f"{file}: {name}", partial(_compile, device, file, name), 60)
    seconds = time.perf_counter() - started
    checks.run("all kernels", lambda: {"n_kernels": len(wanted), "wall_seconds": seconds})


def _compile(device: Any, file: str, name: str) -> dict[str, Any]:
    """What the compiler gave the kernel, where CuPy knows it."""
    kernel = device.kernel(file, name)
    function = getattr(kernel, "_function", None)
    if function is None:
        return {}
    names = ("num_regs", "local_size_bytes", "shared_size_bytes", "max_threads_per_block")
    return {each: getattr(function, each) for each in names}
