"""Where kernels run: what the GPU searcher asks of a device, and CuPy's answer to it.

The searcher knows a device by this protocol alone, so that the same code drives a card through CuPy
and, in the tests, an emulation on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import local
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from merlin_poeem.optional import needed_by
from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.kernels import COMPILER_OPTIONS, kernel_source

Replay = Callable[[], None]

PER_THREAD_STREAM = 2
"""``cudaStreamPerThread``."""


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

    def view(self, memory: Any, start: int, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """An array over the bytes of ``memory``, (n,) uint8, from ``start`` on."""
        ...

    def copy(self, target: Any, source: Any) -> None:
        """Copy the bytes of ``source`` to the start of ``target``, on the current stream.

        Both C-contiguous, ``target`` no shorter.
        """
        ...

    def stream_id(self) -> Hashable:
        """What tells the current stream from others; while it is held, no other is its equal."""
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
            function = module.get_function(name)
            self._kernels[file, name] = _CupyKernel(function, self.card.shared_bytes_per_block)
        return self._kernels[file, name]

    def capture(self, work: Callable[[], None]) -> Replay:
        """See :meth:`Device.capture`."""
        stream = self.xp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                work()
            except BaseException:
                # A stream is not left in the middle; what it says of its half is not the error.
                with contextlib.suppress(self.xp.cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            graph = stream.end_capture()

        def replay() -> None:
            graph.launch(self.xp.cuda.get_current_stream())

        return replay

    def view(self, memory: Any, start: int, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """See :meth:`Device.view`."""
        return self.xp.ndarray(shape, dtype, memory.data + start)

    def copy(self, target: Any, source: Any) -> None:
        """See :meth:`Device.copy`."""
        target.data.copy_from_device_async(source.data, source.nbytes)

    def stream_id(self) -> Hashable:
        """See :meth:`Device.stream_id`."""
        return _StreamId.of(self.xp.cuda.get_current_stream())

    def synchronize(self) -> None:
        """See :meth:`Device.synchronize`."""
        self.xp.cuda.get_current_stream().synchronize()

    def free_bytes(self) -> int:
        """See :meth:`Device.free_bytes`: free on the card, or in CuPy's pool."""
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free + self.xp.get_default_memory_pool().free_bytes())


class _OfThread(local):
    """Something of each thread's own, which no later thread has."""

    def __init__(self) -> None:
        self.token = object()


_of_thread = _OfThread()


@dataclass(frozen=True)
class _StreamId:
    address: int
    thread: object | None
    """Of a stream that each thread has its own of, all with one address."""
    stream: Any = field(compare=False)
    """Held: CUDA gives the address of a stream that is gone to another one. Streams that another
    library made are its own to keep, as for CuPy's memory."""

    @classmethod
    def of(cls, stream: Any) -> _StreamId:
        is_of_thread = stream.ptr == PER_THREAD_STREAM
        return cls(stream.ptr, _of_thread.token if is_of_thread else None, stream)


class _CupyKernel:
    def __init__(self, function: Any, shared_bytes_per_block: int) -> None:
        self._function = function
        # CUDA's default is 48 KB for static and dynamic shared memory together. All that a block
        # may have, once: a limit takes nothing by itself, and launches come from several threads.
        own = function.shared_size_bytes
        function.max_dynamic_shared_size_bytes = shared_bytes_per_block - own

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        # CuPy has no null pointer; an integer of a pointer's width is passed like one.
        arguments = tuple(np.uint64(0) if arg is None else arg for arg in args)
        self._function(grid, block, arguments, shared_mem=shared_bytes)


def _import_cupy() -> ModuleType:
    with needed_by("backend: gpu", "cu13"):
        import cupy
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
