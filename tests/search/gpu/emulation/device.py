"""A CUDA device on the CPU: compiles a kernel's source with g++ and runs its threads as fibers.

``EmulatedDevice`` answers as ``CupyDevice`` does, its arrays NumPy's. What CUDA leaves to chance it
runs in an order that is chosen: the same kernel in ``ORDERS`` must give the same answer. Not
emulated: the memory model, coalescing, bank conflicts, time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np

from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.device import Replay
from merlin_poeem.search.gpu.kernels import kernel_source
from tests.search.gpu.emulation.arguments import Parameter, parameters_of
from tests.search.gpu.emulation.compiler import load_kernel
from tests.search.gpu.emulation.errors import EmulationError
from tests.search.gpu.emulation.launch import Launch, check_limits, three
from tests.search.gpu.emulation.sanitizer import copies_of_views, is_sanitized
from tests.search.gpu.emulation.source import emulation_source, parameter_names

Order = Literal["forward", "reverse", "random"]

ORDERS: tuple[Order, ...] = ("forward", "reverse", "random")
"""In which threads go on after a barrier, a warp collective and at the start; and blocks."""

H100 = Card(
    name="emulated H100",
    compute_capability=(9, 0),
    n_multiprocessors=132,
    shared_bytes_per_block=232448,
    shared_bytes_per_multiprocessor=233472,
    memory_bytes=80 << 30,
)


class EmulatedDevice:
    """A ``merlin_poeem.search.gpu.device.Device``.

    ``order`` and ``seed`` say how threads and blocks take turns; in random order each atomic lets
    another thread go first with probability ``preempt``. ``n_os_threads`` (by default one a CPU)
    run blocks at once; with 1 a random order repeats exactly, whatever blocks do to each other.
    ``source`` gives the text of a file and ``edit`` alters it, for mutants. ``sanitize`` finds
    every access outside an array or shared memory, in a process that ``run_sanitized`` started.
    """

    xp = np

    def __init__(
        self,
        order: Order = "forward",
        seed: int = 0,
        *,
        preempt: float = 0.125,
        n_os_threads: int | None = None,
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
        self.n_os_threads = n_os_threads or len(os.sched_getaffinity(0))
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

    def view(self, memory: Any, start: int, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """See ``Device.view``."""
        return np.ndarray(shape, dtype, memory, start)

    def copy(self, target: Any, source: Any) -> None:
        """See ``Device.copy``."""
        assert target.flags.c_contiguous
        assert source.flags.c_contiguous
        target.reshape(-1).view(np.uint8)[: source.nbytes] = source.reshape(-1).view(np.uint8)

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
        self._library, self._parameters = _compiled(file, name, text, sanitize)

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        launch = Launch(self._file, self._name, three(grid), three(block), int(shared_bytes))
        try:
            check_limits(launch, self._device.card)
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
        copies = copies_of_views(args) if self._sanitize else {}
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
    """As ``Configuration`` of ``cuda/launch.h``."""

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


@cache
def _compiled(
    file: str, name: str, text: str, sanitize: bool
) -> tuple[ctypes.CDLL, list[Parameter]]:
    """The library of a kernel, and what the kernel takes."""
    if sanitize and not is_sanitized():
        raise EmulationError("sanitize=True needs a process started by run_sanitized")
    library = load_kernel(emulation_source(file, name, text), sanitize=sanitize)
    return library, parameters_of(library, parameter_names(text, name))
