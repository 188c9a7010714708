"""g++: C++ in, a loaded library out."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from tests.search.gpu.emulation.errors import EmulationError
from tests.search.gpu.kept_files import kept_file

COMPILER: str | None = shutil.which("g++")
"""None where there is none: nothing can be emulated."""

NO_COMPILER = "emulating CUDA needs g++"
"""The reason for which tests skip where ``COMPILER`` is None."""

# No -march=native and no contraction: the same floats on every machine.
FLAGS = (
    *("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing"),
    *("-fPIC", "-pthread", "-w"),
)
# -O0, as -O1 leaves accesses out that come to nothing.
SANITIZER_FLAGS = ("-fsanitize=address", "-g1", "-fno-omit-frame-pointer", "-O0")

HEADERS = Path(__file__).with_name("cuda")
RUNTIME = Path(__file__).with_name("runtime")


@cache
def load_kernel(source: str, *, sanitize: bool) -> ctypes.CDLL:
    """The compiled source; ``EmulationError`` where it does not compile."""
    flags = (*FLAGS, *SANITIZER_FLAGS) if sanitize else FLAGS
    runtime = _runtime(flags)
    arguments = (
        *(*flags, "-shared", "-include", _compiled_header(flags), "-x", "c++", "-"),
        # Beside the kernel, wherever the folder is.
        *(f"-L{runtime.parent}", f"-l:{runtime.name}", "-Wl,-rpath,$ORIGIN"),
    )
    build = partial(_compile, arguments, source)
    return ctypes.CDLL(str(kept_file(".so", (source, *_versions(flags)), build)))


@cache
def _runtime(flags: tuple[str, ...]) -> Path:
    """The library that all kernels call."""
    sources = [str(path) for path in sorted(RUNTIME.iterdir()) if path.suffix in (".cpp", ".S")]
    build = partial(_compile, (*flags, "-shared", *sources), "")
    return kept_file(".so", _versions(flags), build)


@cache
def _compiled_header(flags: tuple[str, ...]) -> str:
    """A header that includes all of them, with what g++ has made of it beside it.

    g++ takes that in the header's place, by its name with .gch, where the flags are the same.
    """
    text = f'#include "{HEADERS / "emulation.h"}"\n'
    parts = (text, *_versions(flags))
    header = str(kept_file(".h", parts, lambda path: path.write_text(text)))
    kept_file(".h.gch", parts, partial(_compile, (*flags, "-x", "c++-header", header), ""))
    return header


@cache
def _versions(flags: tuple[str, ...]) -> tuple[str, ...]:
    """All that a library depends on, beside the kernel's source."""
    if COMPILER is None:
        raise EmulationError(NO_COMPILER)
    version = subprocess.run([COMPILER, "--version"], capture_output=True, check=True)
    files = sorted([*HEADERS.iterdir(), *RUNTIME.iterdir()])
    return (*(path.read_text() for path in files), repr(flags), version.stdout.decode())


def _compile(arguments: Sequence[str], source: str, output: Path) -> None:
    command = [str(COMPILER), *arguments, "-o", str(output)]
    # What a sanitized process loads first would slow the compiler down.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(command, input=source.encode(), capture_output=True, env=environment)
    if result.returncode:
        raise EmulationError(f"g++ does not compile it:\n{result.stderr.decode()[:4000]}")
