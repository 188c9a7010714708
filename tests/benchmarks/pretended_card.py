"""A card that is pretended: the emulated device, and NumPy under CuPy's name with CUDA's clocks."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.benchmarks.cards import ATTRIBUTES
from tests.search.gpu.emulation.device import EmulatedDevice


class Event:
    """``cupy.cuda.Event``; each is a millisecond after the one that was recorded before it."""

    clock = 0.0

    def record(self) -> None:
        Event.clock += 1
        self.at = Event.clock

    def synchronize(self) -> None:
        assert self.at > 0


class Stream:
    """``cupy.cuda.Stream``: work on it is done at once."""

    ptr = 7

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


Stream.ptds = Stream(non_blocking=True)  # type: ignore[attr-defined]
Stream.null = Stream(non_blocking=True)  # type: ignore[attr-defined]


class PretendedCupy(ModuleType):
    """NumPy under CuPy's name, and what of ``cupy.cuda`` the benchmarks use."""

    cuda = SimpleNamespace(
        Event=Event,
        Stream=Stream,
        get_current_stream=lambda: Stream.null,  # type: ignore[attr-defined]
        get_elapsed_time=lambda start, end: end.at - start.at,
        Device=lambda: SimpleNamespace(attributes=ATTRIBUTES, synchronize=lambda: None, id=0),
        runtime=SimpleNamespace(
            deviceSynchronize=lambda: None,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
        ),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class PretendedCard(EmulatedDevice):
    """The emulated device with the arrays of the pretended CuPy."""

    xp = PretendedCupy("cupy")  # type: ignore[assignment]
