"""Small kernels on which the emulation is tested: those of ``inline.cu``."""

from pathlib import Path
from typing import Any

from merlin_poeem.search.gpu.device import Kernel
from tests.search.gpu.emulation.device import EmulatedDevice, Order

SOURCE = '#line 1 "inline.cu"\n' + Path(__file__).with_name("inline.cu").read_text()


def emulated(order: Order = "forward", seed: int = 0, **options: Any) -> EmulatedDevice:
    """One whose kernels are those of ``inline.cu``, whatever the file."""
    return EmulatedDevice(order, seed, source=lambda _: SOURCE, **options)


def inline_kernel(name: str, order: Order = "forward", **options: Any) -> Kernel:
    """One of them on a device of its own."""
    return emulated(order, **options).kernel("inline.cu", name)
