"""What is asked of CuPy, seen in stand-ins for its objects: no card is needed."""

from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from merlin_poeem.search.gpu.device import PER_THREAD_STREAM, CupyDevice, _CupyKernel, _StreamId


class Function:
    """A compiled function of CuPy's."""

    shared_size_bytes = 4176

    def __init__(self) -> None:
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.launches: list[Any] = []

    def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
        self.launches.append((grid, block, arguments, shared_mem))


def test_a_kernel_may_use_all_shared_memory_beside_its_own() -> None:
    function = Function()
    kernel = _CupyKernel(function, 232448)
    assert function.max_dynamic_shared_size_bytes == 232448 - 4176
    kernel((3,), (256,), (np.int32(1), None), shared_bytes=100)
    assert function.launches == [((3,), (256,), (np.int32(1), np.uint64(0)), 100)]


def test_streams_are_told_apart() -> None:
    first, other = SimpleNamespace(ptr=77), SimpleNamespace(ptr=78)
    assert _StreamId.of(first) == _StreamId.of(SimpleNamespace(ptr=77)) != _StreamId.of(other)
    assert hash(_StreamId.of(first)) == hash(_StreamId.of(SimpleNamespace(ptr=77)))
    # CUDA gives the address of a stream that is gone to another one.
    assert _StreamId.of(first).stream is first


def test_per_thread_streams_are_told_apart_by_thread() -> None:
    stream, ids = SimpleNamespace(ptr=PER_THREAD_STREAM), []
    for _ in range(3):
        thread = Thread(target=lambda: ids.append(_StreamId.of(stream)))
        thread.start()
        thread.join()
    ids.append(_StreamId.of(stream))
    assert len(set(ids)) == 4
    assert _StreamId.of(stream) == ids[-1]


class Stream:
    """A stream that may be recorded."""

    ended = 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def begin_capture(self) -> None: ...

    def end_capture(self) -> Any:
        self.ended += 1
        raise RuntimeError("nothing was recorded")


def test_a_stream_is_not_left_recording() -> None:
    stream = Stream()
    device = object.__new__(CupyDevice)
    runtime = SimpleNamespace(CUDARuntimeError=RuntimeError)
    cuda = SimpleNamespace(Stream=lambda non_blocking: stream, runtime=runtime)
    device.xp = SimpleNamespace(cuda=cuda)

    def fail() -> None:
        raise ValueError("a launch that is refused")

    with pytest.raises(ValueError, match="a launch that is refused"):
        device.capture(fail)
    assert stream.ended == 1
