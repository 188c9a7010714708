"""The emulation of CUDA: threads come together as on a card, and what is wrong is found."""

import numpy as np
import pytest

from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import ORDERS, EmulatedDevice, Order
from tests.search.gpu.emulation.errors import EmulationError
from tests.search.gpu.emulation.inline_kernels import emulated, inline_kernel

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_shared_memory_and_blocks(order: Order) -> None:
    x = (np.arange(10_000) % 7).astype(np.float32)
    out = np.zeros(1, np.float32)
    inline_kernel("total", order)((11,), (256,), (x, np.int32(len(x)), out), 1024)
    assert out[0] == x.sum()

    counts = np.zeros((128, 3), np.int32)
    inline_kernel("barriers", order)((1,), (32, 2, 2), (counts,))
    np.testing.assert_array_equal(counts[:32], [[4 * 11, 1, 1]] * 32)


@pytest.mark.parametrize("order", ORDERS)
def test_warp_collectives(order: Order) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-50, 50, 64).astype(np.int32)
    out = np.zeros((64, 12), np.int32)
    inline_kernel("lanes<12, true>", order)((1,), (64,), (x, out))
    lane = np.arange(32)
    for warp in range(2):
        values = -x[32 * warp : 32 * warp + 32]
        rows = out[32 * warp : 32 * warp + 32]
        bits = int(((values > 0).astype(np.int64) << lane).sum())
        last, first = lane | 15, lane & ~15
        np.testing.assert_array_equal(rows[:, 0], values[lane // 2])
        np.testing.assert_array_equal(rows[:, 1], values[lane ^ 5])
        np.testing.assert_array_equal(
            rows[:, 2], values[np.where(lane + 3 <= last, lane + 3, lane)]
        )
        np.testing.assert_array_equal(
            rows[:, 3], values[np.where(lane - 3 >= first, lane - 3, lane)]
        )
        assert set(rows[:, 4].view(np.uint32)) == {bits}
        assert set(rows[:, 5]) == {1}
        assert set(rows[:, 6]) == {values.sum()}
        assert set(rows[:, 7]) == {values.min()}
        assert set(rows[:, 8].view(np.uint32)) == {values.view(np.uint32).max()}
        kinds = np.fmod(values, 4)
        same = ((kinds[:, None] == kinds).astype(np.int64) << lane).sum(axis=1)
        np.testing.assert_array_equal(rows[:, 9].view(np.uint32), same)
        assert set(rows[:16, 10]) == {values[7]}
        assert set(rows[16:, 10].view(np.uint32)) == {bits & 0xFFFF0000}
        assert set(rows[:24, 11]) == {0xFFFFFF}
        assert set(rows[24:, 11]) == {0}


@pytest.mark.parametrize("order", ORDERS)
def test_atomics(order: Order) -> None:
    n = 50 * 64
    ints, words = np.zeros(4, np.int32), np.zeros(4, np.uint32)
    longs, floats = np.zeros(2, np.uint64), np.zeros(2, np.float32)
    words[1] = 0xFFFFFFFF
    inline_kernel("atomics", order)((50,), (64,), (ints, words, longs, floats))
    assert ints.tolist() == [n * (n - 1) // 2, n - 1, 1 - n, -n]
    assert words.tolist() == [0xFFFFFFFF, 1 << 31, 0, n % 7]  # the exclusive or of 0 to 4m - 1 is 0
    assert longs.tolist() == [n << 33, 5 << 40 | (n - 1)]
    assert floats.tolist() == [n / 2, n]


@pytest.mark.parametrize("barrier", ["all parts are there", "so is the sum"])
def test_missing_barrier_shows_between_orders(barrier: str) -> None:
    def without(file: str, source: str) -> str:
        mutant = source.replace(f"__syncthreads();  // {barrier}", "")
        assert file == "inline.cu"
        assert mutant != source
        return mutant

    x = np.ones(1000, np.float32)
    totals = {}
    for order in ORDERS:
        out = np.zeros(1, np.float32)
        kernel = inline_kernel("total", order, edit=without)
        kernel((2,), (128,), (x, np.int32(len(x)), out), 512)
        totals[order] = str(out[0])
    assert set(totals.values()) != {"1000.0"}, totals


def arrivals(device: EmulatedDevice) -> list[int]:
    """Two launches: their threads' numbers in the order in which they came."""
    came = np.zeros((2, 256), np.int32)
    for row in came:
        device.kernel("inline.cu", "arrivals")((4,), (64,), (np.zeros(1, np.uint32), row))
    assert all(sorted(row) == list(range(256)) for row in came.tolist())
    return came.tolist()


def test_orders_are_what_they_say_and_repeat() -> None:
    assert arrivals(emulated("forward", n_os_threads=1)) == [list(range(256))] * 2
    assert arrivals(emulated("reverse", n_os_threads=1)) == [list(range(255, -1, -1))] * 2
    one, other, again = (arrivals(emulated("random", seed, n_os_threads=1)) for seed in (1, 2, 1))
    assert one == again
    assert one != other
    assert one[0] != one[1]


def test_random_order_switches_at_atomics() -> None:
    counts = {}
    for preempt in (0.0, 0.5):
        counter, unrelated = np.zeros(1, np.int32), np.zeros(1, np.int32)
        inline_kernel("lost_update", "random", preempt=preempt)((1,), (256,), (counter, unrelated))
        assert unrelated[0] == 256
        counts[preempt] = counter[0]
    assert counts[0.0] == 256
    assert counts[0.5] < 256


FAULTS = {
    0: r"thread \(0, 0, 0\) waits in __syncthreads at inline.cu:\d+, but .* \(5, 0, 0\) exited",
    1: r"thread \(0, 0, 0\) waits in __syncthreads at inline.cu:\d+, but .* \(63, 0, 0\) exited",
    2: r"in __syncthreads_or at .* waits in __syncthreads at .*: the barrier is divergent",
    3: r"in __ballot_sync at .* waits in __shfl_sync at .*: lanes of one mask do different things",
    4: r"thread \(1, 0, 0\): __ballot_sync with mask 0x00000001, which lacks .* own lane 1",
    5: r"thread \(40, 0, 0\): assertion failed: i < 40 at inline.cu:\d+",
    6: r"wrote outside the 256 bytes of dynamic shared memory",
    7: r"wrote outside a __shared__ variable of 12 bytes",
}


@pytest.mark.parametrize("which", FAULTS)
def test_faults_are_errors_that_say_where(which: int) -> None:
    kernel = inline_kernel("faults")
    out = np.zeros(64, np.float32)
    message = rf"^inline.cu: faults: block \([0-2], 0, 0\): .*{FAULTS[which]}"
    with pytest.raises(EmulationError, match=message):
        kernel((3,), (64,), (np.int32(which), out), 256)
    # The next launch is none the worse for it.
    kernel((3,), (64,), (np.int32(-1), out), 256)


@pytest.mark.parametrize("order", ORDERS)
def test_a_lane_that_waits_for_exited_lanes_goes_on(order: Order) -> None:
    # Lanes 0 to 6 exit before lane 7 waits for them in forward order, and after it in reverse.
    out = np.zeros(32, np.float32)
    inline_kernel("faults", order)((1,), (32,), (np.int32(9), out), 128)
    expected = np.zeros(32, np.float32)
    expected[7] = 1
    np.testing.assert_array_equal(out, expected)


def test_shared_memory_that_nobody_wrote_is_nan() -> None:
    out = np.zeros(64, np.float32)
    kernel = inline_kernel("faults")
    kernel((2,), (64,), (np.int32(8), out), 256)
    assert np.isnan(out).all()
