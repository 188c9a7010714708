"""The emulation of CUDA: it runs right kernels rightly, and finds what is wrong with others."""

import re
from typing import Any

import numpy as np
import pytest

from merlin_poeem.search.gpu.device import Device, Kernel
from tests.search.gpu.emulation.device import (
    COMPILER,
    NO_COMPILER,
    ORDERS,
    EmulatedDevice,
    EmulationError,
    Launch,
    Order,
    run_sanitized,
    sanitizer_libraries,
)

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

KERNELS = r"""#line 1 "inline.cu"
#include <cuda_fp16.h>
#include <cuda_bf16.h>

// out += sum of x; __shared__ memory; of both kinds.
__global__ void __launch_bounds__(256, 2)
total(const float* __restrict__ x,  // (n,)
      int n, float* out) {
  extern __shared__ __align__(16) unsigned char memory[];
  float* parts = reinterpret_cast<float*>(memory);
  __shared__ float sum;
  parts[threadIdx.x] = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    parts[threadIdx.x] += x[i];
  __syncthreads();  // all parts are there
  if (threadIdx.x == 0) {
    sum = 0;
    for (int i = 0; i < blockDim.x; i++) sum += parts[i];
  }
  __syncthreads();  // so is the sum
  if (threadIdx.x == blockDim.x - 1) atomicAdd(out, sum);
}

__global__ void barriers(int* counts) {  // (threads, 3)
  const bool vote = threadIdx.x % 3 == 0;
  counts[3 * threadIdx.x] = __syncthreads_count(vote);
  counts[3 * threadIdx.x + 1] = __syncthreads_or(vote && threadIdx.x == 3);
  counts[3 * threadIdx.x + 2] = __syncthreads_and(threadIdx.x < 100);
}

template <int COLUMNS, bool NEGATE>
__global__ void lanes(const int* in, int* out) {  // (threads,), (threads, COLUMNS)
  const unsigned lane = threadIdx.x % 32, all = 0xffffffffu;
  const int x = NEGATE ? -in[threadIdx.x] : in[threadIdx.x];
  int* row = out + threadIdx.x * COLUMNS;
  row[0] = __shfl_sync(all, x, lane / 2);
  row[1] = __shfl_xor_sync(all, x, 5);
  row[2] = __shfl_down_sync(all, x, 3, 16);
  row[3] = __shfl_up_sync(all, x, 3, 16);
  row[4] = __ballot_sync(all, x > 0);
  row[5] = 2 * __any_sync(all, x > 60) + __all_sync(all, x > -60);
  row[6] = __reduce_add_sync(all, x);
  row[7] = __reduce_min_sync(all, x);
  row[8] = __reduce_max_sync(all, static_cast<unsigned>(x));
  row[9] = __match_any_sync(all, x % 4);
  // The halves of a warp on their own ways, until they meet.
  if (lane < 16)
    row[10] = __shfl_sync(0x0000ffffu, x, 7);
  else
    row[10] = __ballot_sync(0xffff0000u, x > 0);
  __syncwarp();
  if (lane >= 24) return;
  row[11] = __ballot_sync(all, true);  // of those that have not exited
}

__global__ void atomics(int* ints, unsigned* words, unsigned long long* longs, float* floats) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&ints[0], i);
  atomicMax(&ints[1], i);
  atomicMin(&ints[2], -i);
  atomicSub(&ints[3], 1);
  atomicOr(&words[0], 1u << i % 32);
  atomicAnd(&words[1], ~(1u << i % 31));
  atomicXor(&words[2], i);
  atomicInc(&words[3], 6);
  atomicAdd(&longs[0], 1ull << 33);
  atomicMax(&longs[1], 5ull << 40 | i);
  atomicAdd(&floats[0], 0.5f);
  unsigned old = __float_as_uint(floats[1]), assumed;
  do {
    assumed = old;
    const unsigned sum = __float_as_uint(__uint_as_float(assumed) + 1);
    old = atomicCAS(reinterpret_cast<unsigned*>(&floats[1]), assumed, sum);
  } while (old != assumed);
}

__global__ void multiply(const unsigned* a, const unsigned* b, float* d) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  unsigned fragment_a[4], fragment_b[2];
  float fragment_d[4];
  // Rows of 16 bfloat16 are 8 words; b is given column by column.
  for (int i = 0; i < 4; i++) fragment_a[i] = a[(group + i % 2 * 8) * 8 + place + i / 2 * 4];
  for (int i = 0; i < 2; i++) fragment_b[i] = b[group * 8 + place + i * 4];
  for (int i = 0; i < 4; i++) fragment_d[i] = d[(group + i / 2 * 8) * 8 + place * 2 + i % 2];
  mma_m16n8k16_bf16(fragment_d, fragment_a, fragment_b);
  for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + place * 2 + i % 2] = fragment_d[i];
}

__global__ void conversions(const float* x, int n, __half* halves, __nv_bfloat16* bfloats,
                            int* integers, float* back) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  halves[i] = __float2half_rn(x[i]);
  bfloats[i] = __float2bfloat16_rn(x[i]);
  integers[i] = __float2int_rn(x[i]);
  back[i] = __half2float(__ushort_as_half(i % 65536));
}

__global__ void half_fma(const __half* x, const __half* y, const __half* z, __half* out) {
  out[threadIdx.x] = __hfma(x[threadIdx.x], y[threadIdx.x], z[threadIdx.x]);
}

__global__ void words(const unsigned* x, unsigned* out) {
  const unsigned a = x[0], b = x[1], c = x[2];
  out[0] = __brev(a);
  out[1] = __byte_perm(a, b, 0x7421);
  out[2] = __byte_perm(a, b, 0xba98);
  out[3] = __funnelshift_l(a, b, 35);
  out[4] = __funnelshift_r(a, b, 4);
  out[5] = __dp4a(static_cast<int>(a), static_cast<int>(b), 1);
  out[6] = __dp4a(a, b, 1u);
  out[7] = __clz(c) * 100 + __clz(0);
  out[8] = __ffs(c) * 100 + __popc(a);
  out[9] = min(-1, 5u);
  out[10] = min(-1, 5);
  out[11] = __umulhi(a, b);
}

__global__ void arrivals(unsigned* counter, int* ranks) {  // in which order threads come
  ranks[atomicAdd(counter, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

__global__ void lost_update(int* counter, int* unrelated) {
  const int before = *counter;
  atomicAdd(unrelated, 1);
  *counter = before + 1;
}

__global__ void faults(int which, float* out) {
  extern __shared__ float memory[];
  __shared__ float own[3];
  const int i = threadIdx.x;
  switch (which) {
    case 0: if (i == 5) return; __syncthreads(); break;
    case 1: if (i < 32) __syncthreads(); else __syncwarp(); break;
    case 2: if (i < 16) __syncthreads();
            else __syncthreads_or(0);
            break;
    case 3: if (i % 2) __ballot_sync(~0u, 1); else __shfl_sync(~0u, i, 0); break;
    case 4: __ballot_sync(1u, 1); break;
    case 5: assert(i < 40); break;
    case 6: memory[blockDim.x + i] = 0; break;
    case 7: own[-1 - i % 2] = 0; break;
    case 8: out[i] = memory[i] + own[i % 3]; break;
    case 9: if (i % 32 == 7) { __syncwarp(0xffu); out[i] = 1.0f; } break;
  }
}

__global__ void takes(const uint4* codes, unsigned* rows, const bool* flags, long long number,
                      float factor, void* any) {}

__global__ void copy(const float* x, int n, int n_shared, float* out) {
  extern __shared__ float memory[];
  for (int i = threadIdx.x; i < n_shared; i += blockDim.x) memory[i] = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) out[0] = x[i] + __shfl_sync(1u << i % 32, n, i);
}
"""


def emulated(order: Order = "forward", seed: int = 0, **options: Any) -> EmulatedDevice:
    """One whose kernels are those above, whatever the file."""
    return EmulatedDevice(order, seed, source=lambda _: KERNELS, **options)


def inline_kernel(name: str, order: Order = "forward", **options: Any) -> Kernel:
    return emulated(order, **options).kernel("inline.cu", name)


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Of finite float32, rounded to nearest even, by way of exact integers."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.int64)
    low, high = bits % 65536, bits // 65536
    return (high + ((low > 32768) | ((low == 32768) & (high % 2 == 1)))).astype(np.uint16)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


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


def test_matrix_product_of_a_warp() -> None:
    rng = np.random.default_rng(0)
    a = bfloat16_bits(rng.standard_normal((16, 16)))
    b = bfloat16_bits(rng.standard_normal((16, 8)))
    d = rng.standard_normal((16, 8)).astype(np.float32)
    expected = d + bfloat16_values(a).astype(np.float64) @ bfloat16_values(b)
    columns = np.ascontiguousarray(b.T)
    inline_kernel("multiply")((1,), (32,), (a.view(np.uint32), columns.view(np.uint32), d))
    np.testing.assert_allclose(d, expected, rtol=1e-5, atol=1e-5)


def test_conversions_round_to_nearest_even() -> None:
    rng = np.random.default_rng(0)
    all_halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = np.sort(all_halves[np.isfinite(all_halves)].astype(np.float32))
    ties = (finite[1:] + finite[:-1]) / 2
    near = np.concatenate([np.nextafter(ties, np.float32(s * np.inf)) for s in (-1, 1)])
    any_bits = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    edges = np.float32([0.5, 1.5, -2.5, 65519.99, 65520, 1e-8, 2**-25, 2.0**31, -3e9, 2147483520])
    x = np.concatenate([finite, ties, near, any_bits, edges, np.float32([np.inf, -np.inf])])
    x = x[~np.isnan(x)].astype(np.float32)
    n = len(x)
    halves, bfloats = np.empty(n, np.float16), np.empty(n, np.uint16)
    integers, back = np.empty(n, np.int32), np.empty(n, np.float32)
    inline_kernel("conversions")(
        (-(-n // 256),), (256,), (x, np.int32(n), halves, bfloats, integers, back)
    )
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(halves.view(np.uint16), x.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(bfloats, bfloat16_bits(x))
    np.testing.assert_array_equal(back[:65536], all_halves.astype(np.float32))
    saturated = np.clip(np.rint(x.astype(np.float64)), -(2**31), 2**31 - 1)
    np.testing.assert_array_equal(integers, saturated.astype(np.int32))


def test_half_fma_rounds_once() -> None:
    # The last is just below a tie, and a tie as float32, which would be rounded up.
    x = np.float16([1, 3, 255, 1 + 2**-10])
    y = np.float16([2**-11, 7, 250, 2**-11 - 2**-21])
    z = np.float16([1, -20.5, 31, 1 + 2**-10])
    out = np.empty(4, np.float16)
    inline_kernel("half_fma")((1,), (4,), (x, y, z, out))
    np.testing.assert_array_equal(out, (x.astype(np.float64) * y + z).astype(np.float16))
    assert out[3] == z[3]


def test_integer_intrinsics() -> None:
    a, b, c = 0x80FF7F01, 0x12345678, 0x00F0
    out = np.zeros(12, np.uint32)
    inline_kernel("words")((1,), (1,), (np.uint32([a, b, c]), out))
    signed = [[byte - 256 * (byte > 127) for byte in word.to_bytes(4, "little")] for word in (a, b)]
    assert [hex(word) for word in out] == [
        hex(word)
        for word in (
            int(f"{a:032b}"[::-1], 2),
            0x1278FF7F,
            0xFFFF0000,  # the signs of the bytes of a
            (b << 3 | a >> 29) & 0xFFFFFFFF,
            (a >> 4 | b << 28) & 0xFFFFFFFF,
            (1 + sum(x * y for x, y in zip(*signed, strict=True))) % 2**32,
            1 + sum(x * y for x, y in zip(a.to_bytes(4, "big"), b.to_bytes(4, "big"), strict=True)),
            24 * 100 + 32,
            5 * 100 + bin(a).count("1"),
            5,
            0xFFFFFFFF,
            a * b >> 32,
        )
    ]


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


def test_a_lane_that_waits_for_exited_lanes_goes_on() -> None:
    out = np.zeros(32, np.float32)
    inline_kernel("faults")((1,), (32,), (np.int32(9), out), 128)
    assert np.flatnonzero(out).tolist() == [7]


def test_shared_memory_that_nobody_wrote_is_nan() -> None:
    out = np.zeros(64, np.float32)
    kernel = inline_kernel("faults")
    kernel((2,), (64,), (np.int32(8), out), 256)
    assert np.isnan(out).all()


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
        f"from tests.search.gpu.test_emulation import copy_beyond; copy_beyond(10, 20); {call}"
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
