"""Kernels compiled as CuPy compiles them, with no GPU: what each takes of a multiprocessor."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from merlin_poeem.search.gpu.kernels import COMPILER_OPTIONS, every_kernel, kernel_source
from tests.search.gpu.kept_files import kept_file

ARCHITECTURES = (80, 90)
"""Compute capabilities that the table is of: A100 and H100."""

# CuPy adds the first itself, so that subnormal floats are zero.
OPTIONS = ("-ftz=true", "--ptxas-options=-v")

ENTRY = re.compile(r"^ptxas info +: Compiling entry function '(\w+)'", re.M)
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers.*")
SHARED = re.compile(r"(\d+) bytes smem")
PTXAS_REPORT = re.compile(r"^ptxas (info +:|        \.) ")
LAUNCH_BOUNDS = re.compile(r"\.entry (\w+)\([^{]*?\)([^{]*)\{")


@dataclass(frozen=True, order=True)
class Kernel:
    """One instantiation, for one architecture."""

    architecture: int
    file: str
    name: str

    def __repr__(self) -> str:
        return f"sm_{self.architecture} {self.file} {self.name}"


@dataclass(frozen=True)
class Resources:
    """What the compiler reports of a kernel, and what the kernel asked of it."""

    threads: int
    """Of a block at most: the first of ``__launch_bounds__``."""
    blocks: int
    """Resident at once: the second of ``__launch_bounds__``, 1 without."""
    registers: int
    shared_bytes: int
    """Declared by the kernel itself, without its dynamic shared memory."""
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True)
class Report:
    """What the compiler says of the kernels of one file."""

    resources: dict[str, Resources]
    """By name, as it was asked for."""
    warnings: list[str]
    """What it says beside the resources."""


@dataclass(frozen=True)
class Compiled:
    """The kernels of one file."""

    report: Report
    cubin: bytes


@cache
def missing() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        return f"needs CuPy with NVRTC (the current environment): {error}"
    return None


def compiler() -> str:
    """The compiler and its version; the resources are of this one."""
    return f"nvidia-cuda-nvrtc {version('nvidia-cuda-nvrtc')}"


def compile_kernels(file: str, names: Sequence[str], architecture: int) -> Compiled:
    """Compile ``names`` of ``search/gpu/cuda/<file>`` in one program; an error is CuPy's exception.

    A kernel takes the same when compiled alone, as CuPy does it for a search.
    """
    from cupy.cuda.compiler import _NVRTCProgram
    from cupy_backends.cuda.libs import nvrtc

    source, log = kernel_source(file), io.StringIO()
    program = _NVRTCProgram(source, file, name_expressions=tuple(names), method="cubin")
    cubin, mangled = program.compile(_options(architecture), log)
    said = log.getvalue().strip("\0")
    return Compiled(
        Report(
            resources=_resources(said, _text(nvrtc.getPTX(program.ptr)), mangled),
            warnings=[
                line for line in said.splitlines() if line.strip() and not PTXAS_REPORT.match(line)
            ],
        ),
        cubin=cubin + b"\0",  # CuPy takes the last byte for the end of a string
    )


def compile_every_kernel() -> tuple[dict[Kernel, Resources], list[str]]:
    """All that ``every_kernel`` lists, for every architecture; and all warnings."""
    names: dict[str, list[str]] = {}
    for file, name in every_kernel():
        names.setdefault(file, []).append(name)
    programs = [(file, architecture) for file in names for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        reports = pool.map(lambda of: _kept_report(of[0], names[of[0]], of[1]), programs)
        done = dict(zip(programs, reports, strict=True))
    resources = {
        Kernel(architecture, file, name): of_kernel
        for (file, architecture), report in done.items()
        for name, of_kernel in report.resources.items()
    }
    return resources, [warning for report in done.values() for warning in report.warnings]


def _kept_report(file: str, names: list[str], architecture: int) -> Report:
    """From an earlier run, if source, options and compiler are the same: they include no file."""

    def make(path: Path) -> None:
        path.write_text(json.dumps(asdict(compile_kernels(file, names, architecture).report)))

    parts = (kernel_source(file), repr(names), repr(_options(architecture)), compiler())
    report = json.loads(kept_file(".json", parts, make).read_text())
    resources = {name: Resources(**of_kernel) for name, of_kernel in report["resources"].items()}
    return Report(resources, report["warnings"])


def _options(architecture: int) -> tuple[str, ...]:
    from cupy._core.core import assemble_cupy_compiler_options

    given = assemble_cupy_compiler_options(COMPILER_OPTIONS)
    return (*given, *OPTIONS, f"-arch=sm_{architecture}")


def _resources(report: str, ptx: str, mangled: dict[str, str]) -> dict[str, Resources]:
    bounds = {entry[1]: entry[2] for entry in LAUNCH_BOUNDS.finditer(ptx)}
    parts = ENTRY.split(report)
    reports = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = {}
    for name, entry in mangled.items():
        # Functions that the kernel calls have frames of their own.
        frames = [[int(n) for n in frame] for frame in FRAME.findall(reports[entry])]
        stack, stores, loads = (sum(column) for column in zip(*frames, strict=True))
        used = USED.search(reports[entry])
        assert used is not None, reports[entry]
        shared = SHARED.search(used[0])
        found[name] = Resources(
            threads=_directive("maxntid", bounds[entry]),
            blocks=_directive("minnctapersm", bounds[entry]),
            registers=int(used[1]),
            shared_bytes=int(shared[1]) if shared else 0,
            stack_bytes=stack,
            spill_store_bytes=stores,
            spill_load_bytes=loads,
        )
    return found


def _directive(name: str, bounds: str) -> int:
    value = re.search(rf"\.{name} (\d+)", bounds)
    return int(value[1]) if value else 1


def _text(ptx: str | bytes) -> str:
    return ptx.decode() if isinstance(ptx, bytes) else ptx
