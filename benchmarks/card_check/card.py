"""Step: what the card is, and what drives it."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.card_check.checks import Checks, Skipped
from benchmarks.search_gpu.limits import Rates
from benchmarks.search_gpu.machine import driver_version

LIBRARIES = ("numpy", "cupy", "torch", "cudf", "cuvs", "rmm", "faiss", "pandas", "pyarrow")
TOOLS = ("compute-sanitizer", "ncu", "nvcc", "g++")
COPY_BYTES = 1 << 30


def run(checks: Checks) -> None:
    """The card, the versions, the tools, and how fast the card copies."""
    named: dict[str, Callable[[], dict[str, Any]]] = {
        "card": partial(_card, checks),
        "versions": _versions,
        "tools": lambda: {"tools": {tool: shutil.which(tool) for tool in TOOLS}},
        "copy": partial(_copy, checks),
    }
    for name, work in named.items():
        checks.run(name, work)


def _card(checks: Checks) -> dict[str, Any]:
    card = checks.device.card
    known: dict[str, Any] = {"card": asdict(card), "free_bytes": checks.device.free_bytes()}
    if checks.emulate:
        return known
    cuda = checks.device.xp.cuda
    attributes = cuda.Device().attributes
    rates = Rates.of(attributes, card.compute_capability)
    return known | {
        "driver": driver_version(),
        "cuda_of_driver": cuda.runtime.driverGetVersion(),
        "cuda_runtime": cuda.runtime.runtimeGetVersion(),
        "nvrtc": list(cuda.nvrtc.getVersion()),
        "rates": asdict(rates),
    }


def _versions() -> dict[str, Any]:
    return {"python": platform.python_version(), "versions": {n: _version(n) for n in LIBRARIES}}


def _version(name: str) -> str:
    try:
        return str(getattr(importlib.import_module(name), "__version__", "unknown"))
    except Exception as error:  # a library that is there and does not load says so
        return f"none: {type(error).__name__}: {error}"[:200]


def _copy(checks: Checks) -> dict[str, Any]:
    if checks.emulate:
        raise Skipped("needs a card")
    xp = checks.device.xp
    source, target = xp.ones(COPY_BYTES, xp.uint8), xp.empty(COPY_BYTES, xp.uint8)
    start, end = xp.cuda.Event(), xp.cuda.Event()
    seconds = []
    for _ in range(10):
        start.record()
        target[...] = source
        end.record()
        end.synchronize()
        seconds.append(xp.cuda.get_elapsed_time(start, end) / 1e3)
    return {"bytes_per_second": 2 * COPY_BYTES / sorted(seconds)[len(seconds) // 2]}
