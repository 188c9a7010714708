"""The GPU benchmark's model of what a card could do at best."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.search_gpu.limits import Rates, Work, coarse_seconds, limit_seconds, scan_seconds
from tests.benchmarks.cards import ATTRIBUTES, RATES

WORK = Work.balanced(
    n_items=4_300_000, dim=64, pq_dim=16, pq_bits=8, n_lists=4096, n_probes=8, batch=1024, k=100
)


def test_rates_of_a_card() -> None:
    assert RATES.memory_bytes == pytest.approx(3.35e12, rel=1e-2)
    assert RATES.shared_words == pytest.approx(132 * 32 * 1.98e9)
    # 989e12 FLOP/s of dense bf16 at 1.83 GHz, by the data sheet.
    assert 2 * RATES.tensor_fmas * 1.83 / 1.98 == pytest.approx(989e12, rel=1e-2)
    assert Rates.of(ATTRIBUTES, (99, 0)).tensor_fmas == Rates.of(ATTRIBUTES, (10, 0)).tensor_fmas


def test_limit_by_hand() -> None:
    # 1,000 items of 8 bytes, 10 of them scanned by each of 2 queries; one unit a second of all.
    work = Work(n_items=1000, dim=4, pq_dim=8, pq_bits=8, n_lists=5, batch=2, k=3, items_scanned=10)
    ones = Rates(1, 1, 1, 1, 1, 0)
    assert coarse_seconds(work, ones) == 2 * 5 * 4 * 2  # scores; the products take 2 * 5 * 4
    lookups, entries, table_fmas = 2 * 10 * 8, 2 * 8 * 256, 2 * 256 * 4
    assert scan_seconds(work, ones) == lookups + entries > table_fmas
    slow_memory = replace(ones, memory_bytes=1e-3)
    items_touched = 1000 * (1 - 0.99**2)
    assert scan_seconds(work, slow_memory) == pytest.approx(1e3 * (items_touched * 8 + 2 * 3 * 12))
    fast = Rates(*[1e30] * 5, 0)
    assert limit_seconds(work, fast, "scan") == pytest.approx(3 * 2e-6)


@given(
    name=st.sampled_from(
        ["n_items", "dim", "pq_dim", "pq_bits", "n_lists", "batch", "k", "items_scanned"]
    ),
    factor=st.integers(2, 5),
    path=st.sampled_from(["scan", "bulk"]),
    batch=st.sampled_from([1, 32, 1024, 16384]),
    n_items=st.sampled_from([10**5, 10**6, 10**7]),
)
def test_more_work_never_takes_less(
    name: str, factor: int, path: Any, batch: int, n_items: int
) -> None:
    work = replace(WORK, batch=batch, n_items=n_items)
    larger = replace(work, **{name: getattr(work, name) * factor})
    least, more = (limit_seconds(w, RATES, path) for w in (work, larger))
    assert more * (1 + 1e-9) >= least > 0  # but for rounding


def test_impossible_work_is_refused() -> None:
    with pytest.raises(ValueError, match="batch: expected above 0, got 0"):
        replace(WORK, batch=0)
