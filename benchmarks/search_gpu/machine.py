"""What measures: the device that searches, and what its card could do at best."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

from benchmarks.search_gpu.limits import Rates
from merlin_poeem.search.gpu.device import CupyDevice, Device


@dataclass(frozen=True)
class Machine:
    """The device that searches, and the least that it could take."""

    device: Device
    rates: Rates | None
    """None where the device is emulated: times mean nothing then, and are not taken."""
    description: dict[str, str]
    """Columns of every row: device, driver, cuda, date."""

    @property
    def is_emulated(self) -> bool:
        """Whether there is no card."""
        return self.rates is None

    @property
    def xp(self) -> ModuleType:
        """CuPy, or NumPy."""
        return self.device.xp


@contextmanager
def open_machine(emulate: bool) -> Iterator[Machine]:
    """The current GPU, with a CUDA stream of its own current within the block; or the emulation.

    Raises ``ImportError`` without CuPy and ``RuntimeError`` without a GPU.
    """
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if emulate:
        from tests.search.gpu.emulation.device import EmulatedDevice

        yield Machine(
            EmulatedDevice(),
            None,
            {"device": "emulated on the CPU", "driver": "none", "cuda": "none", "date": date},
        )
        return
    device = CupyDevice()
    cuda = device.xp.cuda
    description = {
        "device": device.card.name,
        "driver": driver_version(),
        "cuda": str(cuda.runtime.runtimeGetVersion()),
        "date": date,
    }
    rates = Rates.of(cuda.Device().attributes, device.card.compute_capability)
    # Not the default stream, which others' streams wait for, and which peers take for "none".
    with cuda.Stream(non_blocking=True):
        yield Machine(device, rates, description)


def driver_version() -> str:
    """Of the NVIDIA kernel driver."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found[0] if found else "unknown"
