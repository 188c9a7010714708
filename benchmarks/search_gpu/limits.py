"""What a card could do at best: the least seconds of a search, from the card's own numbers.

A model, not a measurement, and a bound: every unit is taken at its peak, and the units of one stage
run at once, so that the slowest alone counts. Two stages come after one another, as no list is
scanned before it is chosen: the coarse matrix product, then the scan. What is left out (the top-k,
conflicts between threads, uneven lists within a batch) only makes a search slower than this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import expm1, log1p
from typing import Literal

Path = Literal["scan", "bulk"]

# Per multiprocessor and clock: words that shared memory delivers (one a bank), float32 multiply-
# adds, and bytes from the L2 cache.
SHARED_WORDS = 32
FLOAT32_FMAS = 128
L2_BYTES = 64
# The same of dense bf16 products with float32 sums (fp16 on 7.x), multiply-adds, by major compute
# capability, from NVIDIA's white papers; a card of another generation is taken as the newest.
TENSOR_FMAS = {7: 512, 8: 1024, 9: 2048, 10: 4096}
# Lists chosen, lists scanned, results merged; assumed, for launches from a captured graph.
LAUNCHES = 3
LAUNCH_SECONDS = 2e-6

SCORE_BYTES = 4
RESULT_BYTES = 12  # a float32 score and an int64 id


@dataclass(frozen=True)
class Rates:
    """The peaks of a card, per second."""

    shared_words: float
    """Conflict-free 32-bit reads of shared memory, all multiprocessors together."""
    float32_fmas: float
    tensor_fmas: float
    memory_bytes: float
    l2_bytes: float
    l2_size: int
    """Bytes of the L2 cache; codes that fit in it are read at its rate."""

    @classmethod
    def of(cls, attributes: Mapping[str, int], compute_capability: tuple[int, int]) -> Rates:
        """From CUDA's device attributes under CuPy's names, ``cupy.cuda.Device().attributes``."""
        # CUDA gives clocks in kHz and the width in bits; memory moves data on both clock edges.
        cycles = attributes["MultiProcessorCount"] * attributes["ClockRate"] * 1e3
        newest = max(TENSOR_FMAS)
        bus_bytes = attributes["GlobalMemoryBusWidth"] / 8
        return cls(
            shared_words=SHARED_WORDS * cycles,
            float32_fmas=FLOAT32_FMAS * cycles,
            tensor_fmas=TENSOR_FMAS.get(compute_capability[0], TENSOR_FMAS[newest]) * cycles,
            memory_bytes=2 * attributes["MemoryClockRate"] * 1e3 * bus_bytes,
            l2_bytes=L2_BYTES * cycles,
            l2_size=attributes["L2CacheSize"],
        )


@dataclass(frozen=True)
class Work:
    """The sizes of one search."""

    n_items: int
    dim: int
    pq_dim: int
    pq_bits: int
    n_lists: int
    batch: int
    k: int
    items_scanned: float
    """Items in the lists that a query visits, the mean; uneven lists make it more than
    ``n_items * n_probes / n_lists``."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name != "items_scanned"):
                raise ValueError(f"{field.name}: expected above 0, got {value}")

    @classmethod
    def balanced(
        cls,
        *,
        n_items: int,
        dim: int,
        pq_dim: int,
        pq_bits: int,
        n_lists: int,
        n_probes: int,
        batch: int,
        k: int,
    ) -> Work:
        """With lists that are all of one length."""
        scanned = n_items * n_probes / n_lists
        return cls(n_items, dim, pq_dim, pq_bits, n_lists, batch, k, scanned)

    @property
    def code_bytes(self) -> float:
        """Bytes of one item's codes."""
        return self.pq_dim * self.pq_bits / 8

    @property
    def items_touched(self) -> float:
        """Different items that the batch scans, if its queries fall independently."""
        if self.items_scanned >= self.n_items:
            return self.n_items
        # n (1 − (1 − share) ** batch), without losing the digits of a small share.
        return -self.n_items * expm1(self.batch * log1p(-self.items_scanned / self.n_items))


def limit_seconds(work: Work, rates: Rates, path: Path) -> float:
    """The least seconds of ``work`` along ``path`` of the searcher's plan."""
    scan = scan_seconds(work, rates) if path == "scan" else bulk_seconds(work, rates)
    return LAUNCHES * LAUNCH_SECONDS + coarse_seconds(work, rates) + scan


def coarse_seconds(work: Work, rates: Rates) -> float:
    """Scores of all lists: one matrix product, its scores written and read once."""
    products = work.batch * work.n_lists * work.dim / rates.tensor_fmas
    scores = work.batch * work.n_lists * SCORE_BYTES * 2
    return max(products, scores / _bandwidth(scores, rates))


def scan_seconds(work: Work, rates: Rates) -> float:
    """Query by query: a table per query, one lookup a code byte of every scanned item.

    Codes of 4 bits could share a table of their pairs, so it is a lookup a byte for them too.
    """
    lookups = work.batch * work.items_scanned * work.code_bytes
    entries = work.batch * work.pq_dim * 2**work.pq_bits
    table_fmas = work.batch * 2**work.pq_bits * work.dim
    return max(
        (lookups + entries) / rates.shared_words,
        table_fmas / rates.float32_fmas,
        transfer_seconds(work, rates),
    )


def bulk_seconds(work: Work, rates: Rates) -> float:
    """List by list: items decoded once, one lookup a code, then products on tensor cores."""
    decoding = work.items_touched * work.pq_dim
    products = work.batch * work.items_scanned * work.dim
    return max(
        decoding / rates.shared_words,
        products / rates.tensor_fmas,
        transfer_seconds(work, rates),
    )


def transfer_seconds(work: Work, rates: Rates) -> float:
    """Codes of the visited lists read once for the whole batch, results written once."""
    codes = work.items_touched * work.code_bytes
    held = work.n_items * work.code_bytes
    return codes / _bandwidth(held, rates) + work.batch * work.k * RESULT_BYTES / rates.memory_bytes


def _bandwidth(size: float, rates: Rates) -> float:
    return rates.l2_bytes if size <= rates.l2_size else rates.memory_bytes
