"""Where kernels run: what the GPU searcher asks of a device, and CuPy's answer to it.

The searcher knows a device by this protocol alone, so that the same code drives a card through CuPy
and, in the tests, an emulation on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.kernels import COMPILER_OPTIONS, kernel_source

Replay = Callable[[], None]


class Kernel(Protocol):
    """A compiled ``__global__`` function."""

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        """Launch on the current stream.

        ``args`` are arrays of the device's ``xp`` (C-contiguous, passed as pointers), None (a null
        pointer) and NumPy scalars of the parameter's own type.
        """
        ...


class Device(Protocol):
    """A card and the array library whose arrays live on it."""

    xp: ModuleType
    """CuPy, or NumPy where the device is emulated."""

    card: Card

    def kernel(self, file: str, name: str) -> Kernel:
        """The function ``name`` of ``search/gpu/cuda/<file>``; compiled once.

        ``name`` is a C++ name, with its template arguments if it has any: ``scan<16, true, true>``.
        """
        ...

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record the launches of ``work``, and return what launches them all again at once.

        ``work`` uses memory that stays where it is, and does nothing but launch.
        """
        ...

    def stream_id(self) -> int:
        """A number for the current stream, the same for the same stream."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was launched on the current stream is done."""
        ...

    def free_bytes(self) -> int:
        """Device memory that an allocation could still get."""
        ...


class CupyDevice:
    """The current CUDA device, through CuPy.

    Raises ``ImportError`` where CuPy is not installed and ``RuntimeError`` where it finds no GPU,
    both saying what is missing.
    """

    def __init__(self) -> None:
        self.xp = _import_cupy()
        properties = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)
        self.card = Card(
            name=properties["name"].decode(),
            compute_capability=(properties["major"], properties["minor"]),
            n_multiprocessors=properties["multiProcessorCount"],
            shared_bytes_per_block=properties["sharedMemPerBlockOptin"],
            shared_bytes_per_multiprocessor=properties["sharedMemPerMultiprocessor"],
            memory_bytes=properties["totalGlobalMem"],
        )
        self._kernels: dict[tuple[str, str], Kernel] = {}

    def kernel(self, file: str, name: str) -> Kernel:
        """See :meth:`Device.kernel`."""
        if (file, name) not in self._kernels:
            module = self.xp.RawModule(
                code=kernel_source(file), options=COMPILER_OPTIONS, name_expressions=(name,)
            )
            self._kernels[file, name] = _CupyKernel(module.get_function(name))
        return self._kernels[file, name]

    def capture(self, work: Callable[[], None]) -> Replay:
        """See :meth:`Device.capture`."""
        stream = self.xp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            work()
            graph = stream.end_capture()

        def replay() -> None:
            graph.launch(self.xp.cuda.get_current_stream())

        return replay

    def stream_id(self) -> int:
        """See :meth:`Device.stream_id`."""
        return int(self.xp.cuda.get_current_stream().ptr)

    def synchronize(self) -> None:
        """See :meth:`Device.synchronize`."""
        self.xp.cuda.get_current_stream().synchronize()

    def free_bytes(self) -> int:
        """See :meth:`Device.free_bytes`: free on the card, or in CuPy's pool."""
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free + self.xp.get_default_memory_pool().free_bytes())


class _CupyKernel:
    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        if shared_bytes > self._function.max_dynamic_shared_size_bytes:
            self._function.max_dynamic_shared_size_bytes = shared_bytes
        # CuPy has no null pointer; an integer of a pointer's width is passed like one.
        arguments = tuple(np.uint64(0) if arg is None else arg for arg in args)
        self._function(grid, block, arguments, shared_mem=shared_bytes)


def _import_cupy() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "backend: gpu needs CuPy; install it with pip install 'merlin-poeem[cu13]' or [cu12]"
        ) from error
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"backend: gpu needs an NVIDIA GPU; CUDA finds none ({error})"
        ) from error
    if not n_devices:
        raise RuntimeError("backend: gpu needs an NVIDIA GPU; CUDA finds none")
    module: ModuleType = cupy
    return module
