"""NVRTC of any version through its C API: no CuPy, no GPU; its wheel need not be installed.

``requirements/nvrtc-<release>.txt`` names a wheel for each release that a user may have, and
``make .venv/nvrtc-<release>/.ready`` unpacks it. The newest is the current environment's own.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

OWN_DISTRIBUTION = "nvidia-cuda-nvrtc"
"""The compiler that CuPy finds in the current environment."""

UNPACKED = sorted(
    (file.stem.removeprefix("nvrtc-") for file in REPOSITORY.glob("requirements/nvrtc-*.in")),
    key=lambda release: tuple(map(int, release.split("."))),
)
"""Releases that are unpacked beside the environments, oldest first."""

# Loaded first: NVRTC looks for it by name alone.
BUILTINS = re.compile(r"libnvrtc-builtins\.so")
LIBRARY = re.compile(r"libnvrtc\.so")


class CompilationError(Exception):
    """The compiler's log, or what NVRTC says of a call."""


@dataclass(frozen=True)
class Output:
    """What a compilation leaves."""

    log: str
    ptx: str
    cubin: bytes
    lowered: dict[str, str]
    """The mangled name of each name expression."""


@dataclass(frozen=True)
class Compiler:
    """One NVRTC."""

    release: str
    """Major and minor: ``13.0``."""
    wheel: str
    """Name and version of what it came in."""
    folder: Path

    def architectures(self) -> tuple[int, ...]:
        """Compute capabilities that it compiles for."""
        nvrtc, n = _load(self.folder), ctypes.c_int()
        _check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(n)))
        found = (ctypes.c_int * n.value)()
        _check(nvrtc, nvrtc.nvrtcGetSupportedArchs(found))
        return tuple(found)

    def compile(
        self, source: str, file: str, names: tuple[str, ...], options: tuple[str, ...]
    ) -> Output:
        """Compile ``source``, which errors call ``file``, for the architecture in ``options``."""
        nvrtc, program = _load(self.folder), ctypes.c_void_p()
        _check(
            nvrtc,
            nvrtc.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), file.encode(), 0, None, None
            ),
        )
        try:
            for name in names:
                _check(nvrtc, nvrtc.nvrtcAddNameExpression(program, name.encode()))
            given = (ctypes.c_char_p * len(options))(*map(str.encode, options))
            failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
            log = _bytes(nvrtc, "ProgramLog", program).rstrip(b"\0").decode()
            if failed:
                raise CompilationError(f"{self.release}: {file} {options}:\n{log}")
            return Output(
                log=log,
                ptx=_bytes(nvrtc, "PTX", program).rstrip(b"\0").decode(),
                cubin=_bytes(nvrtc, "CUBIN", program),
                lowered={name: _lowered(nvrtc, program, name) for name in names},
            )
        finally:
            nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def compilers() -> dict[str, Compiler]:
    """Those at hand by release, oldest first; the current environment's own is the last."""
    found = [_unpacked(release) for release in UNPACKED]
    return {each.release: each for each in (*found, own_compiler()) if each is not None}


@cache
def own_compiler() -> Compiler | None:
    """This environment's, or None."""
    try:
        return _compiler(distribution(OWN_DISTRIBUTION))
    except PackageNotFoundError:
        return None


def _unpacked(release: str) -> Compiler | None:
    folder = REPOSITORY / ".venv" / f"nvrtc-{release}"
    return next((_compiler(wheel) for wheel in distributions(path=[str(folder)])), None)


def _compiler(wheel: Distribution) -> Compiler:
    library = next(file for file in wheel.files or () if LIBRARY.match(file.name))
    release = ".".join(wheel.version.split(".")[:2])
    folder = Path(str(wheel.locate_file(library))).resolve().parent
    return Compiler(release, f"{wheel.metadata['Name']} {wheel.version}", folder)


@cache
def _load(folder: Path) -> ctypes.CDLL:
    """Libraries of several releases have the same names: loaded by path, they stay apart."""
    for wanted in (BUILTINS, LIBRARY):
        library = next(str(file) for file in sorted(folder.iterdir()) if wanted.match(file.name))
        nvrtc = ctypes.CDLL(library)
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


def _check(nvrtc: ctypes.CDLL, error: int) -> None:
    if error:
        raise CompilationError(nvrtc.nvrtcGetErrorString(error).decode())


def _bytes(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, nvrtc[f"nvrtcGet{what}Size"](program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(nvrtc, nvrtc[f"nvrtcGet{what}"](program, text))
    return text.raw


def _lowered(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> str:
    lowered = ctypes.c_char_p()
    _check(nvrtc, nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)))
    return (lowered.value or b"").decode()
