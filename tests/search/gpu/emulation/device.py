"""A CUDA device on the CPU: compiles a kernel's source with g++ and runs its threads as fibers.

``EmulatedDevice`` answers as ``CupyDevice`` does, its arrays NumPy's. What CUDA leaves to chance it
runs in an order that is chosen: the same kernel in ``ORDERS`` must give the same answer. Not
emulated: the memory model, coalescing, bank conflicts, time.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.search.gpu.device import Card, Replay
from merlin_poeem.search.gpu.kernels import kernel_source

Order = Literal["forward", "reverse", "random"]

ORDERS: tuple[Order, ...] = ("forward", "reverse", "random")
"""In which threads go on after a barrier, a warp collective and at the start; and blocks."""

COMPILER: str | None = shutil.which("g++")
"""None where there is none: nothing can be emulated."""

NO_COMPILER = "emulating CUDA needs g++"
"""The reason for which tests skip where ``COMPILER`` is None."""

REPOSITORY = Path(__file__).resolve().parents[4]
HEADER = Path(__file__).with_name("cuda_emulation.h")

# No -march=native and no contraction: the same floats on every machine.
FLAGS = (
    *("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing"),
    *("-fPIC", "-shared", "-fopenmp", "-w"),
)
SANITIZER_FLAGS = ("-fsanitize=address", "-g1", "-fno-omit-frame-pointer")

MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)

H100 = Card(
    name="emulated H100",
    compute_capability=(9, 0),
    n_multiprocessors=132,
    shared_bytes_per_block=232448,
    shared_bytes_per_multiprocessor=233472,
    memory_bytes=80 << 30,
)


class EmulationError(RuntimeError):
    """What a card would answer with an error, a hang or nonsense: says where."""


@dataclass(frozen=True)
class Launch:
    """A kernel that ran."""

    file: str
    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int


class EmulatedDevice:
    """A ``merlin_poeem.search.gpu.device.Device``.

    ``order`` and ``seed`` say how threads and blocks take turns; in random order each atomic lets
    another thread go first with probability ``preempt``. ``n_os_threads`` (0: all) run blocks at
    once; with 1 a random order repeats exactly, whatever blocks do to each other. ``source`` gives
    the text of a file and ``edit`` alters it, for mutants. ``sanitize`` finds every access outside
    an array or shared memory, in a process that ``run_sanitized`` started.
    """

    xp = np

    def __init__(
        self,
        order: Order = "forward",
        seed: int = 0,
        *,
        preempt: float = 0.125,
        n_os_threads: int = 0,
        card: Card = H100,
        free_bytes: int | None = None,
        source: Callable[[str], str] = kernel_source,
        edit: Callable[[str, str], str] | None = None,
        sanitize: bool = False,
    ) -> None:
        self.card = card
        self.order = order
        self.seed = seed
        self.preempt = preempt
        self.n_os_threads = n_os_threads
        self.launches: list[Launch] = []
        """Every kernel that ran, in order; yours to clear."""
        self.current_stream = 0
        """What ``stream_id`` returns; yours to set."""
        self._free_bytes = card.memory_bytes if free_bytes is None else free_bytes
        self._source = source
        self._edit = edit
        self._sanitize = sanitize
        self._kernels: dict[tuple[str, str], _EmulatedKernel] = {}
        self._n_runs = 0
        self._recorded: list[Callable[[], None]] | None = None

    def kernel(self, file: str, name: str) -> _EmulatedKernel:
        """See ``Device.kernel``."""
        if (file, name) not in self._kernels:
            text = self._source(file)
            if self._edit is not None:
                text = self._edit(file, text)
            self._kernels[file, name] = _EmulatedKernel(self, file, name, text, self._sanitize)
        return self._kernels[file, name]

    def capture(self, work: Callable[[], None]) -> Replay:
        """See ``Device.capture``. Launches are checked as ``work`` makes them."""
        if self._recorded is not None:
            raise EmulationError("capture within a capture")
        recorded: list[Callable[[], None]] = []
        self._recorded = recorded
        try:
            work()
        finally:
            self._recorded = None

        def replay() -> None:
            for run in recorded:
                self._submit(run)

        return replay

    def stream_id(self) -> int:
        """See ``Device.stream_id``."""
        return self.current_stream

    def synchronize(self) -> None:
        """See ``Device.synchronize``: what was launched is done already."""

    def free_bytes(self) -> int:
        """See ``Device.free_bytes``: as it was set."""
        return self._free_bytes

    def _submit(self, run: Callable[[], None]) -> None:
        if self._recorded is not None:
            self._recorded.append(run)
        else:
            run()

    def _next_seed(self) -> int:
        """Another one for each launch, the same for the same launches in the same order."""
        self._n_runs += 1
        return (self.seed * 1_000_003 + self._n_runs) % 2**64


class _EmulatedKernel:
    """See ``merlin_poeem.search.gpu.device.Kernel``."""

    def __init__(
        self, device: EmulatedDevice, file: str, name: str, text: str, sanitize: bool
    ) -> None:
        self._device = device
        self._file = file
        self._name = name
        self._sanitize = sanitize
        self._library = _load(_emulation_source(file, name, text), sanitize)
        self._parameters = _parameters(self._library, _parameter_names(text, name))

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        launch = Launch(self._file, self._name, _three(grid), _three(block), int(shared_bytes))
        try:
            _check_limits(launch, self._device.card)
            values = self._argument_values(args)
        except EmulationError as error:
            raise self._error(error) from None
        # Held, so that a replay finds the arrays alive.
        held = tuple(args)

        def run() -> None:
            self._run(launch, values, held)

        self._device._submit(run)

    def _argument_values(self, args: Sequence[Any]) -> list[Any]:
        """ctypes values of the parameters' own types."""
        if len(args) != len(self._parameters):
            raise EmulationError(f"{len(args)} arguments for {len(self._parameters)} parameters")
        return [parameter.value(arg) for parameter, arg in zip(self._parameters, args, strict=True)]

    def _run(self, launch: Launch, values: list[Any], args: tuple[Any, ...]) -> None:
        device = self._device
        device.launches.append(launch)
        copies = _copies_of_views(args) if self._sanitize else {}
        for place, copied in copies.items():
            values = [*values[:place], ctypes.c_void_p(copied.ctypes.data), *values[place + 1 :]]
        configuration = _Configuration(
            grid=launch.grid,
            block=launch.block,
            shared_bytes=launch.shared_bytes,
            shared_bytes_limit=device.card.shared_bytes_per_block,
            seed=device._next_seed(),
            preempt=device.preempt,
            order=ORDERS.index(device.order),
            n_os_threads=device.n_os_threads,
        )
        pointers = (ctypes.c_void_p * (len(values) + 1))(*map(ctypes.addressof, values))
        message = ctypes.create_string_buffer(1024)
        failed = self._library.emulation_launch(
            ctypes.byref(configuration), pointers, message, len(message)
        )
        if failed:
            raise self._error(message.value.decode())
        for place, copied in copies.items():
            if not self._parameters[place].pointee_is_const:
                args[place][...] = copied

    def _error(self, what: object) -> EmulationError:
        return EmulationError(f"{self._file}: {self._name}: {what}")


class _Configuration(ctypes.Structure):
    """As the header's ``Configuration``."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("shared_bytes_limit", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("preempt", ctypes.c_double),
        ("order", ctypes.c_int),
        ("n_os_threads", ctypes.c_int),
    )


def _three(extent: tuple[int, ...]) -> tuple[int, int, int]:
    if not 1 <= len(extent) <= 3:
        raise EmulationError(f"an extent has one to three dimensions, not {extent}")
    x, y, z = (*(int(n) for n in extent), 1, 1)[:3]
    return x, y, z


def _check_limits(launch: Launch, card: Card) -> None:
    for what, extent, limits in (
        ("grid", launch.grid, MAX_GRID),
        ("block", launch.block, MAX_BLOCK),
    ):
        for axis, size, limit in zip("xyz", extent, limits, strict=True):
            if not 1 <= size <= limit:
                raise EmulationError(f"{what}.{axis} is {size}; the limits are 1 and {limit}")
    n_threads = launch.block[0] * launch.block[1] * launch.block[2]
    if n_threads > MAX_THREADS:
        raise EmulationError(f"{n_threads} threads a block; the limit is {MAX_THREADS}")
    if not 0 <= launch.shared_bytes <= card.shared_bytes_per_block:
        raise EmulationError(
            f"{launch.shared_bytes} bytes of shared memory a block; "
            f"the limit is {card.shared_bytes_per_block}"
        )


# ---- arguments -----------------------------------------------------------------------------------

KINDS = {"f": "f", "c": "c", "i": "i", "u": "i", "b": "b", "V": "c"}
"""Of a NumPy dtype's kind, the header's; signed and unsigned integers are one kind."""


class _RawParameter(ctypes.Structure):
    """As the header's ``Parameter``."""

    _fields_ = (
        ("type_text", ctypes.c_char_p),
        ("size", ctypes.c_uint64),
        ("pointee_size", ctypes.c_uint64),
        ("pointee_alignment", ctypes.c_uint64),
        ("kind", ctypes.c_char),
        ("pointee_kind", ctypes.c_char),
        ("pointee_is_const", ctypes.c_bool),
    )


@dataclass(frozen=True)
class _Parameter:
    """What a kernel takes at one place. Kinds are the header's."""

    label: str
    size: int
    kind: str
    pointee_size: int
    pointee_alignment: int
    pointee_kind: str
    pointee_is_const: bool

    def value(self, arg: Any) -> Any:
        """The argument's bytes, in ctypes."""
        if self.kind == "p":
            return ctypes.c_void_p(self._address(arg))
        return self._scalar(arg)

    def _address(self, arg: Any) -> int:
        if arg is None:
            return 0
        if not isinstance(arg, np.ndarray):
            raise EmulationError(f"{self.label} takes an array or None, not {_described(arg)}")
        if not arg.flags.c_contiguous:
            raise EmulationError(f"{self.label} takes a C-contiguous array")
        if not (self.pointee_is_const or arg.flags.writeable):
            raise EmulationError(f"{self.label} is written to, and the array is read-only")
        # A class or void is a view of bytes: codes as uint4, say.
        if self.pointee_kind not in "cvp" and (
            self.pointee_kind != KINDS.get(arg.dtype.kind) or self.pointee_size != arg.itemsize
        ):
            is_flag = self.pointee_size == arg.itemsize == 1
            if not is_flag:
                raise EmulationError(f"{self.label} does not take {_described(arg)}")
        address = int(arg.ctypes.data)
        if address % self.pointee_alignment:
            raise EmulationError(
                f"{self.label} takes an array aligned to {self.pointee_alignment} bytes"
            )
        return address

    def _scalar(self, arg: Any) -> Any:
        if not isinstance(arg, np.generic):
            raise EmulationError(f"{self.label} takes a NumPy scalar, not {_described(arg)}")
        if self.size != arg.itemsize or self.kind != KINDS.get(arg.dtype.kind):
            raise EmulationError(f"{self.label} does not take {_described(arg)}")
        return (ctypes.c_uint8 * self.size).from_buffer_copy(arg.tobytes())


def _described(arg: Any) -> str:
    if isinstance(arg, np.ndarray):
        return f"an array of {arg.dtype}"
    if isinstance(arg, np.generic):
        return f"np.{arg.dtype}({arg})"
    return f"{type(arg).__name__} {arg!r}"


def _parameters(library: ctypes.CDLL, names: list[str]) -> list[_Parameter]:
    library.emulation_parameters.restype = ctypes.POINTER(_RawParameter)
    n = ctypes.c_int()
    raw_parameters = library.emulation_parameters(ctypes.byref(n))
    if len(names) != n.value:
        names = [f"number {i}" for i in range(n.value)]
    parameters = []
    for raw, name in zip(raw_parameters[: n.value], names, strict=True):
        text = re.search(r"with T = (.*)\]$", raw.type_text.decode())
        parameters.append(
            _Parameter(
                label=f"parameter {name} ({text[1] if text else '?'})",
                size=raw.size,
                kind=raw.kind.decode(),
                pointee_size=raw.pointee_size,
                pointee_alignment=raw.pointee_alignment,
                pointee_kind=raw.pointee_kind.decode(),
                pointee_is_const=raw.pointee_is_const,
            )
        )
    return parameters


def _parameter_names(text: str, kernel: str) -> list[str]:
    """As the source has them; [] where it does not say."""
    name = kernel.split("<")[0].split("::")[-1].strip()
    definition = re.search(rf"__global__[^;{{}}]*?\b{name}\s*\(([^{{;]*)\)", _uncommented(text))
    if definition is None:
        return []
    return [part.split()[-1].lstrip("*&") for part in definition[1].split(",") if part.split()]


# ---- compiling -----------------------------------------------------------------------------------

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
CUDA_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(cuda\w*|mma|crt/\w+)(\.h|\.hpp)?>", re.M)
SHARED = re.compile(r"(extern\s+)?\b__shared__\b([^;]*);")
ALIGNMENT = re.compile(r"\b(?:__align__|alignas)\s*\(([^()]*(?:\([^()]*\))?[^()]*)\)")
DECLARATION = re.compile(
    r"\s*(?P<type>\S.*?)\s*\b(?P<name>\w+)\s*(?P<extent>(\[[^\[\]]*\]\s*)*)$", re.S
)


def _uncommented(text: str) -> str:
    return COMMENT.sub(lambda comment: "\n" * comment[0].count("\n") or " ", text)


def _emulation_source(file: str, name: str, text: str) -> str:
    """C++ of the kernel ``name`` behind the two entry points that this module calls."""
    text = CUDA_INCLUDE.sub("", _uncommented(text))
    text = SHARED.sub(_rewritten_shared, text)
    return f"""#line 1 "{file}"
{text}
#line 1 "entry point of {file}"
extern "C" const emulation::Parameter* emulation_parameters(int* n) {{
    return emulation::parameters(&{name}, n);
}}
extern "C" int emulation_launch(const emulation::Configuration* configuration, void** arguments,
                                char* message, size_t message_bytes) {{
    return emulation::launch(&{name}, *configuration, arguments, message, message_bytes);
}}
"""


def _rewritten_shared(shared: re.Match[str]) -> str:
    """A ``__shared__`` declaration as a reference into the block's shared memory."""
    is_dynamic, declared = shared[1], shared[2]
    alignment = ALIGNMENT.search(declared)
    declaration = DECLARATION.match(ALIGNMENT.sub("", declared))
    if declaration is None or "," in declaration["type"].rpartition(">")[2]:
        raise EmulationError(f"__shared__ takes one variable a declaration: {shared[0]}")
    lines = "\n" * shared[0].count("\n")
    element, name, extent = declaration["type"], declaration["name"], declaration["extent"]
    if is_dynamic:
        return f"{element}* const {name} = ({element}*)emulation::dynamic_shared();{lines}"
    arguments = f"{element}{extent}" + (f", ({alignment[1]})" if alignment else "")
    return (
        f"static char site_of_{name}; auto& {name} = emulation::static_shared<{arguments}>"
        f"(&site_of_{name}, __FILE__, __LINE__);{lines}"
    )


@cache
def _cache_folder() -> Path:
    """$MERLIN_POEEM_EMULATION_CACHE, or .emulation in the repository if it can be written."""
    named = os.environ.get("MERLIN_POEEM_EMULATION_CACHE")
    folder = Path(named) if named else REPOSITORY / ".emulation"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        return folder
    return Path(tempfile.mkdtemp(prefix="merlin-poeem-emulation-"))


@cache
def _compiler_version() -> str:
    if COMPILER is None:
        raise EmulationError(NO_COMPILER)
    return subprocess.run([COMPILER, "--version"], capture_output=True, check=True).stdout.decode()


@cache
def _load(source: str, sanitize: bool) -> ctypes.CDLL:
    """The compiled source; from the cache's folder if a run before this one compiled it."""
    if sanitize and not _is_sanitized():
        raise EmulationError("sanitize=True needs a process started by run_sanitized")
    flags = (*FLAGS, *SANITIZER_FLAGS) if sanitize else FLAGS
    parts = (source, HEADER.read_text(), repr(flags), _compiler_version())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    library = _cache_folder() / f"{digest}.so"
    if not library.exists():
        _compile(source, flags, library)
    return ctypes.CDLL(str(library))


def _compile(source: str, flags: tuple[str, ...], library: Path) -> None:
    # Several processes may want the same library: each writes its own file, and the last name wins.
    own = library.with_name(f"{uuid.uuid4().hex}.tmp")
    command = [str(COMPILER), *flags, "-x", "c++", "-include", str(HEADER), "-", "-o", str(own)]
    try:
        result = subprocess.run(command, input=source.encode(), capture_output=True)
        if result.returncode:
            raise EmulationError(f"g++ does not compile it:\n{result.stderr.decode()[:4000]}")
        os.replace(own, library)
    finally:
        own.unlink(missing_ok=True)


# ---- the address sanitizer -----------------------------------------------------------------------

SANITIZER_OPTIONS = (
    "detect_leaks=0",
    "detect_stack_use_after_return=0",
    "alloc_dealloc_mismatch=0",
)


def _copies_of_views(args: Sequence[Any]) -> dict[int, NDArray[Any]]:
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


def _is_sanitized() -> bool:
    return hasattr(ctypes.CDLL(None), "__asan_init")


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
        "ASAN_OPTIONS": ":".join(SANITIZER_OPTIONS),
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
