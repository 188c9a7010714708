"""The emulation of CUDA: its matrix product, conversions and intrinsics."""

import numpy as np
import pytest

from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.inline_kernels import inline_kernel

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Of finite float32, rounded to nearest even, by way of exact integers."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.int64)
    low, high = bits % 65536, bits // 65536
    return (high + ((low > 32768) | ((low == 32768) & (high % 2 == 1)))).astype(np.uint16)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


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


CARD_NAN, MOVED_NAN = 0x7FFFFFFF, 0xFFFFFFFF
MINUS = 0x80000000
TINY, SMALLEST = 0x00000001, 0x00800000
"""The smallest subnormal number, and the smallest that is not."""
ONE, INFINITY, ZERO = 0x3F800000, 0x7F800000, 0
X, SUM, PRODUCT, FMA, LEAST, MOST, SCALED, COMPARED = range(8)
LESS, EQUAL, NEITHER = 2, 1, 0


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        # A NaN that arithmetic makes is the card's; one that is only moved stays as it is.
        (INFINITY, INFINITY | MINUS, {SUM: CARD_NAN, LEAST: INFINITY | MINUS, MOST: INFINITY}),
        (INFINITY, ZERO, {PRODUCT: CARD_NAN, FMA: CARD_NAN}),
        (MOVED_NAN, ONE, {X: MOVED_NAN, LEAST: ONE, MOST: ONE, COMPARED: NEITHER}),
        (ONE, MOVED_NAN, {LEAST: ONE, MOST: ONE, COMPARED: NEITHER}),
        (MOVED_NAN, MOVED_NAN, {X: MOVED_NAN, LEAST: CARD_NAN, MOST: CARD_NAN}),
        # -0 is below 0, and equal to it.
        (ZERO | MINUS, ZERO, {LEAST: ZERO | MINUS, MOST: ZERO, COMPARED: EQUAL}),
        (ZERO, ZERO | MINUS, {LEAST: ZERO | MINUS, MOST: ZERO, COMPARED: EQUAL}),
        # Subnormal numbers are zeros of their sign, but where they are only moved.
        (TINY, ZERO, {X: TINY, SUM: ZERO, LEAST: ZERO, MOST: ZERO, COMPARED: EQUAL}),
        (TINY | MINUS, ONE, {X: TINY | MINUS, PRODUCT: ZERO | MINUS, LEAST: ZERO | MINUS}),
        (SMALLEST, 0x3F000000, {PRODUCT: ZERO, SCALED: ZERO, COMPARED: LESS}),
        (SMALLEST, SMALLEST, {FMA: SMALLEST, SUM: 0x01000000, LEAST: SMALLEST}),
        (SMALLEST | MINUS, SMALLEST + 1, {SUM: ZERO, PRODUCT: ZERO | MINUS}),
    ],
)
def test_floats_are_as_on_a_card(x: int, y: int, expected: dict[int, int]) -> None:
    out = np.empty((1, 8), np.uint32)
    floats = [np.array([bits], np.uint32).view(np.float32) for bits in (x, y)]
    inline_kernel("floats")((1,), (32,), (*floats, np.int32(1), out))
    got = {place: hex(out[0, place]) for place in expected}
    assert got == {place: hex(bits) for place, bits in expected.items()}


def test_subnormal_numbers_are_the_callers_again() -> None:
    inline_kernel("floats")(
        (4,), (32,), (np.ones(99, "f4"), np.ones(99, "f4"), np.int32(99), np.empty((99, 8), "u4"))
    )
    assert np.float32(1e-38) / np.float32(100) > 0
