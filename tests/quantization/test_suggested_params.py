"""What is suggested for a catalog: sizes that fit the bytes, lists that hold enough items."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import IVFPQParams, suggest_params
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.suggested_params import suggest_n_probes

SIZES = st.integers(1, 10**9)
DIMS = st.integers(1, 600)


@pytest.mark.parametrize(
    ("n_items", "n_lists", "n_probes"),
    [
        (1, 1, 1),
        (300, 8, 8),
        (2048, 64, 64),
        (3260, 128, 80),  # MovieLens 1M
        (10_000, 256, 52),
        (41_000, 1024, 51),  # Gowalla
        (74_399, 1024, 32),
        (100_000, 1024, 32),
        (4_300_000, 8192, 256),
    ],
)
def test_lists(n_items: int, n_lists: int, n_probes: int) -> None:
    params = suggest_params(n_items, 64)
    assert (params.n_lists, params.n_probes) == (n_lists, n_probes)
    assert suggest_n_probes(n_items, n_lists) == n_probes


@given(SIZES, st.integers(1, 10**5))
def test_probes_scan_few_items_of_a_large_catalog_and_a_small_one_whole(
    n_items: int, n_lists: int
) -> None:
    n_probes = suggest_n_probes(n_items, n_lists)
    scanned = n_items * n_probes / n_lists  # in lists of one length
    assert 1 <= n_probes <= n_lists
    assert abs(scanned - min(n_items, max(2048, n_items / 32))) <= n_items / n_lists
    assert (n_probes == n_lists) or n_items > 2048


@pytest.mark.parametrize(
    ("dim", "pq_dim"), [(1, 1), (10, 10), (50, 25), (64, 32), (100, 25), (101, 101), (256, 32)]
)
@pytest.mark.parametrize("metric", METRICS)
def test_without_bytes_quality_is_favoured(dim: int, pq_dim: int, metric: Any) -> None:
    params = suggest_params(1000, dim, metric=metric)
    assert (params.pq_dim, params.pq_bits, params.metric) == (pq_dim, 8, metric)


@pytest.mark.parametrize(
    ("dim", "bytes_per_item", "metric", "codes"),
    [
        (64, 9, "inner_product", (8, 8)),
        (64, 9, "cosine", (8, 8)),
        (64, 9, "l2", (8, 8)),
        (64, 8, "l2", (8, 8)),
        (64, 8, "inner_product", (4, 8)),
        (64, 17, "cosine", (16, 8)),
        (64, 1000, "cosine", (64, 8)),
        (50, 33, "cosine", (25, 8)),  # (50, 4) has as many bits
        (7, 5, "cosine", (7, 4)),  # (1, 8) has fewer
        (101, 52, "cosine", (101, 4)),
        (101, 51, "cosine", (1, 8)),
        (64, 2, "cosine", (1, 8)),
        (64, 1, "l2", (1, 8)),
    ],
)
def test_codes_that_fit(dim: int, bytes_per_item: int, metric: Any, codes: tuple[int, int]) -> None:
    params = suggest_params(10_000, dim, bytes_per_item, metric=metric)
    assert (params.pq_dim, params.pq_bits, params.metric) == (*codes, metric)


@given(DIMS, st.integers(2, 700), st.sampled_from(METRICS))
def test_no_codes_of_more_bits_fit(dim: int, bytes_per_item: int, metric: Any) -> None:
    found = suggest_params(10**6, dim, bytes_per_item, metric=metric)
    room = 8 * (bytes_per_item - (metric != "l2"))
    assert dim % found.pq_dim == 0
    assert found.pq_bits in (4, 8)
    divisors = [n for n in range(1, dim + 1) if dim % n == 0]
    fitting = [n * width for n in divisors for width in (4, 8) if n * width <= room]
    assert found.pq_dim * found.pq_bits == max(fitting)


@given(SIZES, DIMS)
def test_any_catalog_has_lists_with_items(n_items: int, dim: int) -> None:
    params = suggest_params(n_items, dim)
    assert params == IVFPQParams.from_dict(params.to_dict())
    assert params.pq_len(dim) * params.pq_dim == dim
    assert params.n_lists == 1 or n_items / params.n_lists > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "n_items: expected at least 1, got 0"),
        ((4, 0), "dim: expected at least 1, got 0"),
        ((4, 4, 0), "bytes_per_item: expected at least 1, got 0"),
        ((4, 4, 1), "bytes_per_item: expected at least 2, for the codes and the scale; got 1"),
    ],
)
def test_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest_params(*arguments)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match=r"bytes_per_item: expected an integer, got 8\.5"):
        suggest_params(100, 64, 8.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"metric: expected one of .* got 'dot'"):
        suggest_params(100, 64, 9, metric="dot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_lists: expected at least 1, got 0"):
        suggest_n_probes(100, 0)
