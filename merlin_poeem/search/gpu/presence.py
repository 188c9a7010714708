"""Whether this machine has a GPU that a search could use, whatever is installed for it."""

from __future__ import annotations

import os
from pathlib import Path

DEVICES = Path("/dev")


def has_visible_gpu() -> bool:
    """Whether the driver shows an NVIDIA GPU and ``CUDA_VISIBLE_DEVICES`` hides not all of them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(DEVICES.glob("nvidia[0-9]*"))
