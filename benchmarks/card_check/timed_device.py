"""A device that says how long each kernel took."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from merlin_poeem.search.gpu.device import Device, Kernel, Replay


class TimedDevice:
    """``device``, with CUDA events around every launch; where it is emulated, a list of them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.xp, self.card = device.xp, device.card
        self._has_events = hasattr(device.xp, "cuda")
        self._launches: list[tuple[str, Any, Any]] = []
        self._kernels: dict[tuple[str, str], Kernel] = {}

    def kernel(self, file: str, name: str) -> Kernel:
        """See ``Device.kernel``."""
        if (file, name) not in self._kernels:
            self._kernels[file, name] = self._timed(self._device.kernel(file, name), name)
        return self._kernels[file, name]

    def capture(self, work: Callable[[], None]) -> Replay:
        """See ``Device.capture``; what is replayed is not timed."""
        return self._device.capture(work)

    def stream_id(self) -> Hashable:
        """See ``Device.stream_id``."""
        return self._device.stream_id()

    def view(self, memory: Any, start: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """See ``Device.view``."""
        return self._device.view(memory, start, shape, dtype)

    def copy(self, target: Any, source: Any) -> None:
        """See ``Device.copy``."""
        self._device.copy(target, source)

    def synchronize(self) -> None:
        """See ``Device.synchronize``."""
        self._device.synchronize()

    def free_bytes(self) -> int:
        """See ``Device.free_bytes``."""
        return self._device.free_bytes()

    def take(self) -> dict[str, float | None]:
        """Seconds of every kernel since the last call, all its launches together."""
        seconds: dict[str, float | None] = {}
        for name, start, end in self._launches:
            own = self._seconds(start, end) if self._has_events else None
            seconds[name] = own if own is None else own + (seconds.get(name) or 0)
        self._launches.clear()
        return seconds

    def event(self) -> Any:
        """A CUDA event recorded now; None where there is no card."""
        if not self._has_events:
            return None
        event = self.xp.cuda.Event()
        event.record()
        return event

    def seconds_since(self, start: Any) -> float | None:
        """Seconds of the card from :meth:`event` until all launched since is done."""
        end = self.event()
        return None if end is None else self._seconds(start, end)

    def _seconds(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(self.xp.cuda.get_elapsed_time(start, end)) / 1e3

    def _timed(self, kernel: Kernel, name: str) -> Kernel:
        def launch(
            grid: tuple[int, ...],
            block: tuple[int, ...],
            args: Sequence[Any],
            shared_bytes: int = 0,
        ) -> None:
            start = self.event()
            kernel(grid, block, args, shared_bytes)
            self._launches.append((name, start, self.event()))

        return launch
