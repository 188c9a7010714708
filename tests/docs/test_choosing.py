"""The tables of docs/choosing.md are what suggest_params says."""

from __future__ import annotations

import re

import pytest

import merlin_poeem as mp
from tests.docs.pages import DOCS

pytestmark = pytest.mark.once

BYTES = (5, 9, 17, 33, None)


def table_below(heading: str) -> list[list[str]]:
    """The rows of the first table below ``heading``, without its head."""
    below = (DOCS / "choosing.md").read_text().split(f"## {heading}")[1]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None
    rows = table[0].strip().splitlines()[2:]
    return [[cell.strip().replace(",", "") for cell in row.strip("|").split("|")] for row in rows]


def rows_of_lists() -> list[tuple[int, ...]]:
    """Items, n_lists, items a list, n_probes, items scanned, rows before the start."""
    return [tuple(map(int, row)) for row in table_below("Lists")]


def test_lists() -> None:
    rows = rows_of_lists()
    assert rows[0][0] == 1_000
    assert rows[-1][0] == 100_000_000
    for n_items, n_lists, items_a_list, n_probes, scanned, _ in rows:
        params = mp.suggest_params(n_items, 64)
        assert (n_lists, n_probes) == (params.n_lists, params.n_probes)
        assert items_a_list == round(n_items / n_lists)
        assert scanned == round(n_items * n_probes / n_lists)


def test_codes() -> None:
    rows = table_below("Codes")
    assert len(rows) >= 10
    for dim, *cells in rows:
        for n_bytes, cell in zip(BYTES, cells, strict=True):
            params = mp.suggest_params(1_000_000, int(dim), n_bytes)
            assert cell == f"{params.pq_dim} × {params.pq_bits}"
