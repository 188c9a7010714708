"""AddressSanitizer: finds every access outside an array or shared memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.search.gpu.emulation.compiler import COMPILER
from tests.search.gpu.emulation.errors import EmulationError
from tests.search.gpu.kept_files import REPOSITORY

OPTIONS = (
    "detect_leaks=0",
    "detect_stack_use_after_return=0",
    "alloc_dealloc_mismatch=0",
)


@cache
def sanitizer_libraries() -> tuple[str, ...] | None:
    """What a sanitized Python has to load first; None where g++ has no address sanitizer."""
    if COMPILER is None:
        return None
    libraries = []
    # The sanitizer takes the C++ library's functions over only if that is loaded with it.
    for name in ("libasan.so", "libstdc++.so"):
        command = [COMPILER, f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()
        if not Path(path).is_absolute():
            return None
        libraries.append(path)
    return tuple(libraries)


def run_sanitized(
    program: str | Sequence[str], timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Python code, or this Python's arguments (``["-m", "pytest", …]``), under AddressSanitizer.

    In the repository's folder. An access outside an array ends the process with a return code other
    than 0 and "AddressSanitizer" in its ``stderr``.
    """
    libraries = sanitizer_libraries()
    if libraries is None:
        raise EmulationError("g++ has no address sanitizer")
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": ":".join(OPTIONS),
        # Python's small objects, too, in blocks of their own.
        "PYTHONMALLOC": "malloc",
    }
    arguments = ["-c", program] if isinstance(program, str) else list(program)
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment,
        timeout=timeout,
    )


def is_sanitized() -> bool:
    """Whether ``run_sanitized`` started this process."""
    return hasattr(ctypes.CDLL(None), "__asan_init")


def copies_of_views(args: Sequence[Any]) -> dict[int, NDArray[Any]]:
    """Copies, in allocations of their own, of arguments that are part of a larger one, by place.

    The sanitizer sees where an allocation ends, not where a view does. Views that overlap another
    argument stay as they are.
    """
    arrays = {place: arg for place, arg in enumerate(args) if isinstance(arg, np.ndarray)}
    return {
        place: view.copy()
        for place, view in arrays.items()
        if view.base is not None
        and not any(np.may_share_memory(view, arrays[other]) for other in arrays if other != place)
    }
