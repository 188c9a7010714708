"""The emulated device: what it takes, what it launches, records and compiles; its sanitizer."""

import re
from typing import Any

import numpy as np
import pytest

from merlin_poeem.search.gpu.device import Device
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.emulation.errors import EmulationError
from tests.search.gpu.emulation.inline_kernels import emulated, inline_kernel
from tests.search.gpu.emulation.launch import Launch
from tests.search.gpu.emulation.sanitizer import run_sanitized, sanitizer_libraries

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


CODES = np.zeros((4, 16), np.uint8)
ROWS = np.zeros(4, np.uint32)
RIGHT: tuple[Any, ...] = (CODES, ROWS, np.zeros(2, bool), np.int64(1), np.float32(1), ROWS)


@pytest.mark.parametrize(
    ("place", "arg", "message"),
    [
        (3, np.int32(1), r"parameter number \(long long int\) does not take np.int32\(1\)"),
        (3, np.float64(1), r"parameter number \(long long int\) does not take np.float64"),
        (3, 1, r"parameter number \(long long int\) takes a NumPy scalar, not int 1"),
        (4, np.float64(1), r"parameter factor \(float\) does not take np.float64\(1.0\)"),
        (4, ROWS, r"parameter factor \(float\) takes a NumPy scalar, not an array of uint32"),
        (1, np.uint32(1), r"parameter rows \(.*\) takes an array or None, not np.uint32"),
        (1, [1], r"parameter rows \(.*\) takes an array or None, not list"),
        (1, np.zeros(4, np.int64), r"parameter rows \(.*\) does not take an array of int64"),
        (1, np.zeros(4, np.float32), r"parameter rows \(.*\) does not take an array of float32"),
        (1, np.zeros(4, np.uint32)[::2], r"parameter rows \(.*\) takes a C-contiguous array"),
        (1, np.broadcast_to(ROWS, (1, 4)), r"parameter rows \(.*\) is written to, .* read-only"),
        (0, CODES.reshape(-1)[1:], r"parameter codes \(const uint4\*\) .* aligned to 16 bytes"),
    ],
)  # fmt: skip
def test_arguments_have_the_parameters_types(place: int, arg: Any, message: str) -> None:
    args = [*RIGHT[:place], arg, *RIGHT[place + 1 :]]
    device = emulated()
    with pytest.raises(EmulationError, match=f"^inline.cu: takes: {message}"):
        device.kernel("inline.cu", "takes")((1,), (1,), args)
    assert not device.launches


def test_arguments_that_fit() -> None:
    kernel = inline_kernel("takes")
    for place, arg in [(1, ROWS.view(np.int32)), (0, None), (0, CODES.view(np.float32))]:
        kernel((1,), (1,), [*RIGHT[:place], arg, *RIGHT[place + 1 :]])
    kernel((1,), (1,), [*RIGHT[:2], np.zeros(2, np.uint8), *RIGHT[3:]])
    with pytest.raises(EmulationError, match="5 arguments for 6 parameters"):
        kernel((1,), (1,), RIGHT[:5])


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "message"),
    [
        ((0,), (1,), 0, "grid.x is 0; the limits are 1 and 2147483647"),
        ((1, 65536), (1,), 0, "grid.y is 65536; the limits are 1 and 65535"),
        ((1, 1, 65536), (1,), 0, "grid.z is 65536; the limits are 1 and 65535"),
        ((1,), (1025,), 0, "block.x is 1025; the limits are 1 and 1024"),
        ((1,), (1, 1, 65), 0, "block.z is 65; the limits are 1 and 64"),
        ((1,), (32, 33), 0, "1056 threads a block; the limit is 1024"),
        ((1,), (1,), 232449, "232449 bytes of shared memory a block; the limit is 232448"),
        ((1, 1, 1, 1), (1,), 0, "one to three dimensions"),
    ],
)
def test_launches_beyond_the_card(
    grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int, message: str
) -> None:
    with pytest.raises(EmulationError, match=message):
        inline_kernel("takes")(grid, block, RIGHT, shared_bytes)


def test_static_and_dynamic_shared_memory_share_the_limit() -> None:
    args = (np.zeros(1, np.float32), np.int32(1), np.zeros(1, np.float32))
    with pytest.raises(EmulationError, match="232452 bytes of dynamic and static shared memory"):
        inline_kernel("total")((1,), (32,), args, 232448)


def test_capture_records_and_replays() -> None:
    device = emulated()
    x, out = np.ones(100, np.float32), np.zeros(1, np.float32)

    def work() -> None:
        for _ in range(2):
            device.kernel("inline.cu", "total")((1,), (32,), (x, np.int32(len(x)), out), 128)

    replay = device.capture(work)
    assert out[0] == 0
    assert not device.launches
    x[:] = 2  # the arrays are taken as they are at the replay
    replay()
    replay()
    assert out[0] == 800
    assert device.launches == [Launch("inline.cu", "total", (1, 1, 1), (32, 1, 1), 128)] * 4

    with pytest.raises(EmulationError, match="capture within a capture"):
        device.capture(lambda: device.capture(work) and None)
    work()
    assert out[0] == 1200


def test_answers_as_a_device() -> None:
    device: Device = EmulatedDevice(free_bytes=1000)
    assert device.free_bytes() == 1000
    assert EmulatedDevice().free_bytes() == device.card.memory_bytes == 80 << 30
    assert device.stream_id() == 0
    assert device.xp is np


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("__global__ void f(int* x) {\n  undeclared = 1;\n}", "inline.cu:2.*undeclared"),
        ("__global__ void g() {}", "f.*not declared"),
        ("__global__ void f() { __shared__ int a, b; }", "one variable a declaration"),
    ],
)
def test_source_that_does_not_compile(source: str, message: str) -> None:
    device = EmulatedDevice(source=lambda _: f'#line 1 "inline.cu"\n{source}')
    with pytest.raises(EmulationError, match=re.compile(message, re.DOTALL)):
        device.kernel("inline.cu", "f")


def copy_beyond(n: int, n_shared: int, view: bool = False) -> None:
    """Runs in a sanitized process: copies ``n`` of 10 floats, in shared memory of 20."""
    kernel = inline_kernel("copy", "random", sanitize=True)
    x = np.zeros(30, np.float32)[:10] if view else np.zeros(10, np.float32)
    out = np.ones(1, np.float32)
    kernel((4,), (64,), (x, np.int32(n), np.int32(n_shared), out), 80)
    print(out[0], flush=True)


@pytest.mark.skipif(sanitizer_libraries() is None, reason="needs g++'s address sanitizer")
@pytest.mark.parametrize(
    ("call", "access"),
    [
        ("copy_beyond(11, 20)", "READ"),
        ("copy_beyond(11, 20, view=True)", "READ"),
        ("copy_beyond(10, 21)", "WRITE"),
    ],
)
def test_sanitizer_finds_one_element_too_many(call: str, access: str) -> None:
    program = (
        "from tests.search.gpu.test_emulation_device import copy_beyond; "
        f"copy_beyond(10, 20); {call}"
    )
    result = run_sanitized(program)
    assert result.stdout == "10.0\n", result.stderr  # of the right call
    assert result.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in result.stderr
    place = rf"{access} of size 4.*in copy\(.* .*inline.cu:\d+"
    assert re.search(place, result.stderr, re.DOTALL), result.stderr


def test_sanitizing_needs_a_process_of_its_own() -> None:
    with pytest.raises(EmulationError, match="run_sanitized"):
        inline_kernel("copy", sanitize=True)
