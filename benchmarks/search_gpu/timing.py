"""Seconds of a search: CUDA events around it, or the wall clock; backends take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

# How often each backend has a turn.
MIN_ROUNDS, MAX_ROUNDS = 3, 100
SECONDS_PER_BACKEND = 0.3


def take_turns(
    works: dict[str, tuple[Callable[[], Any], bool]], xp: ModuleType
) -> dict[str, float]:
    """Median seconds of each of ``works``, (work, whether CUDA events time it), in turns."""
    clocks = {
        name: _event_seconds if events else _wall_seconds for name, (_, events) in works.items()
    }
    rounds = {}
    for name, (work, _) in works.items():
        work()  # compiles, allocates
        estimate = clocks[name](work, xp)
        rounds[name] = int(np.clip(SECONDS_PER_BACKEND / estimate, MIN_ROUNDS, MAX_ROUNDS))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(max(rounds.values(), default=0)):
        for name, (work, _) in works.items():
            if turn < rounds[name]:
                seconds[name].append(clocks[name](work, xp))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _event_seconds(work: Callable[[], Any], xp: ModuleType) -> float:
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(xp.cuda.get_elapsed_time(start, end)) / 1e3


def _wall_seconds(work: Callable[[], Any], xp: ModuleType) -> float:
    xp.cuda.get_current_stream().synchronize()
    started = time.perf_counter()
    work()
    xp.cuda.Device().synchronize()
    return time.perf_counter() - started
