"""Kernels compiled as CuPy compiles them, with no GPU: what each takes of a multiprocessor."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from merlin_poeem.search.gpu.kernels import COMPILER_OPTIONS, every_kernel, kernel_source
from tests.search.gpu.kept_files import kept_file
from tests.search.gpu.nvrtc_library import Compiler, Output, own_compiler

ARCHITECTURES = (80, 90, 100)
"""Compute capabilities that the tables are of: A100, H100 and B200, where the compiler knows it."""

# CuPy adds the first two itself: subnormal floats are zero, and functions the device's.
OPTIONS = ("-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")

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
    shared_bytes: int = 0
    """Declared by the kernel itself, without its dynamic shared memory."""
    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0

    @property
    def spilled_bytes(self) -> int:
        """Of local memory, all in all: 0 is what a kernel should have."""
        return self.stack_bytes + self.spill_store_bytes + self.spill_load_bytes


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


def missing() -> str | None:
    """Why this environment has no compiler of its own; None where it has."""
    return None if own_compiler() else "needs NVRTC: the current environment has it"


def architectures_of(compiler: Compiler) -> list[int]:
    """Those of the tables that it compiles for."""
    return [each for each in ARCHITECTURES if each in compiler.architectures()]


def compile_kernels(
    file: str, names: Sequence[str], architecture: int, compiler: Compiler | None = None
) -> Compiled:
    """Compile ``names`` of ``search/gpu/cuda/<file>`` in one program; None is our own compiler.

    A kernel takes the same when compiled alone, as CuPy does it for a search.
    """
    compiler = compiler or own_compiler()
    if compiler is None:
        raise ImportError(missing())
    output = compiler.compile(kernel_source(file), file, tuple(names), _options(architecture))
    lines = output.log.splitlines()
    warnings = [line for line in lines if line.strip() and not PTXAS_REPORT.match(line)]
    return Compiled(Report(_resources(output), warnings), output.cubin)


def compile_every_kernel(
    compiler: Compiler,
    architectures: Sequence[int] | None = None,
    files: Collection[str] | None = None,
) -> tuple[dict[Kernel, Resources], list[str]]:
    """All that ``every_kernel`` lists, for every architecture or those, of every file or those; and
    all warnings."""
    architectures = architectures or architectures_of(compiler)
    wanted = [each for each in every_kernel() if files is None or each[0] in files]
    names: dict[str, list[str]] = {}
    for file, name in wanted:
        names.setdefault(file, []).append(name)
    programs = [(file, arch) for file in names for arch in architectures]
    # A file at a time would leave a processor idle at the end: those that take longest come first.
    programs.sort(key=lambda program: -len(kernel_source(program[0])) * len(names[program[0]]))
    with ThreadPoolExecutor(2) as pool:
        reports = pool.map(lambda of: _kept_report(of[0], names[of[0]], of[1], compiler), programs)
        done = dict(zip(programs, reports, strict=True))
    resources = {
        Kernel(architecture, file, name): done[file, architecture].resources[name]
        for architecture in architectures
        for file, name in wanted
    }
    return resources, [warning for report in done.values() for warning in report.warnings]


def _kept_report(file: str, names: list[str], architecture: int, compiler: Compiler) -> Report:
    """From an earlier run, if source, options and compiler are the same: they include no file."""

    def make(path: Path) -> None:
        report = compile_kernels(file, names, architecture, compiler).report
        path.write_text(json.dumps(asdict(report)))

    parts = (kernel_source(file), repr(names), repr(_options(architecture)), compiler.wheel)
    report = json.loads(kept_file(".json", parts, make).read_text())
    resources = {name: Resources(**of_kernel) for name, of_kernel in report["resources"].items()}
    return Report(resources, report["warnings"])


def _options(architecture: int) -> tuple[str, ...]:
    return (*COMPILER_OPTIONS, *OPTIONS, f"-arch=sm_{architecture}")


def _resources(output: Output) -> dict[str, Resources]:
    bounds = {entry[1]: entry[2] for entry in LAUNCH_BOUNDS.finditer(output.ptx)}
    parts = ENTRY.split(output.log)
    reports = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = {}
    for name, entry in output.lowered.items():
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
