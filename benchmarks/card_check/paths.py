"""Step: one search of every path, beside the definition; what may end the process comes last."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from benchmarks.card_check.checks import Checks
from benchmarks.card_check.indexes import (
    N_PROBES,
    queries_of,
    small_index,
    with_large_rows,
    with_odd_rows,
)
from benchmarks.card_check.ways import WAYS, Open, changed
from merlin_poeem import Candidates, FlatIndex, Index, ItemSet
from merlin_poeem.arrays import largest_value, to_host
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.stored_vectors import FLAT_DTYPES, VECTOR_DTYPES
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.flat_factories import assert_flat_answers, flat_queries, random_flat
from tests.index_factories import assert_answers, random_id_lists, random_item_set
from tests.search.gpu.openers import BULK, ReplannedFlat

N_QUERIES = 20
# Emulated, these show that the step works; tests/search shows the rest.
EMULATED = (
    "flat, l2, int8",
    "graph",
    "bulk",
    "bulk, item sets",
    "second look, l2, int8: graph",
    "NaN and infinite queries: bulk",
)
# Code bytes of one to three segments of a LUT row, and bulk tiles of every held size.
WIDTHS = (4, 12, 16, 24, 32, 44, 64)
# Dimensions a code byte, of eight: rows of one to eight lanes, of several steps, and odd ones.
ROW_LENS = (1, 2, 8, 16, 37)
LARGE_VALUES = (1e15, 1e20, 1e38, 3e38)

Search = dict[str, Any]


def run(checks: Checks) -> None:
    """Every path a line."""
    device = checks.device
    for name, work in _cases(device):
        if not checks.emulate or name in EMULATED:
            checks.run(name, work, limit=30)


def _cases(device: Any) -> Iterator[tuple[str, partial[dict[str, Any]]]]:
    index = small_index()
    plain: Search = {"k": 10}
    for name, way in WAYS.items():
        yield name, partial(answer, device, way, index, plain)
    bulk = changed(**BULK)
    for filters, search in _filters(index).items():
        yield f"graph, {filters}", partial(answer, device, GpuSearcher, index, search)
        yield f"bulk, {filters}", partial(answer, device, bulk, index, search)
    for metric in METRICS:
        for name, way in (("scan", WAYS["scan"]), ("bulk", bulk)):
            yield f"{metric}: {name}", partial(answer, device, way, small_index(metric), plain)
    for width in WIDTHS:
        wide = small_index(pq_dim=width)
        for name in ("scan", "compact LUT", "bulk"):
            yield f"{width} bytes: {name}", partial(answer, device, WAYS[name], wide, plain)
    for k in (1, 100, 128, 1000, 2048):
        yield f"k = {k}", partial(answer, device, WAYS["scan"], index, {"k": k})
        yield f"k = {k}: bulk", partial(answer, device, bulk, index, {"k": k})
    for n_probes in (1, 2, 17, 18, 20, 24):
        search = {"k": 10, "n_probes": n_probes}
        yield f"{n_probes} probes", partial(answer, device, WAYS["scan"], index, search)
    for batch in (1, 33, 300):
        yield f"batch {batch}", partial(answer, device, GpuSearcher, index, plain, batch)
    yield from _second_looks(device)
    yield from _flat_cases(device)
    yield from _odd_cases(device)


def _second_looks(device: Any) -> Iterator[tuple[str, partial[dict[str, Any]]]]:
    search: Search = {"k": 10, "refine": 4}
    for metric, dtype in product(METRICS, VECTOR_DTYPES):
        index = small_index(metric, vectors=dtype)
        for name in ("graph", "split parts, chunks, unsorted probes", "bulk"):
            case = partial(answer, device, WAYS[name], index, search)
            yield f"second look, {metric}, {dtype}: {name}", case
    for dtype, pq_len in product(VECTOR_DTYPES, ROW_LENS):
        index = small_index(pq_dim=7, pq_len=pq_len, vectors=dtype)
        case = partial(answer, device, GpuSearcher, index, search)
        yield f"second look, {dtype}, {index.dim} dimensions", case
    index = small_index(vectors="float16")
    for filters, filtered in _filters(index).items():
        case = partial(answer, device, GpuSearcher, index, {**search, **filtered})
        yield f"second look, {filters}", case
    for k in (1, 128, 512):
        case = partial(answer, device, GpuSearcher, index, {"k": k, "refine": 4})
        yield f"second look, k = {k}", case
    on_host = partial(GpuSearcher, vectors_on_device=False)
    yield "second look, vectors on the host", partial(answer, device, on_host, index, search)


def _flat_cases(device: Any) -> Iterator[tuple[str, partial[dict[str, Any]]]]:
    """Exact search: two blocks of items, vectors of two slabs."""
    for metric in METRICS:
        for dtype in FLAT_DTYPES:
            index = random_flat(metric, dtype, n_items=1500, dim=130)
            yield f"flat, {metric}, {dtype}", partial(answer_flat, device, index, {"k": 10})
    index = random_flat(n_items=20000)
    for k in (1, 1000, 2048):
        yield f"flat, k = {k}", partial(answer_flat, device, index, {"k": k})
    lists = [index.item_ids[i::3] for i in range(N_QUERIES)]
    item_set = ItemSet(index.item_ids[::7])
    for filters, search in (
        ("exclude lists", {"k": 10, "exclude": lists}),
        ("allow set, exclude lists", {"k": 10, "allow": item_set, "exclude": lists}),
    ):
        yield f"flat, {filters}", partial(answer_flat, device, index, search)


def _odd_cases(device: Any) -> Iterator[tuple[str, partial[dict[str, Any]]]]:
    for value in LARGE_VALUES:
        for name in ("graph", "scan", "bulk"):
            yield f"queries of {value:g}: {name}", partial(answer_large, device, name, value)
    for name in WAYS:
        yield f"NaN and infinite queries: {name}", partial(answer_odd, device, name)


def _filters(index: Index) -> dict[str, Search]:
    lists = random_id_lists(index, N_QUERIES, 150)
    item_set = random_item_set(index, 500)
    return {
        "exclude lists": {"k": 10, "exclude": lists},
        "allow lists": {"k": 10, "allow": lists},
        "item sets": {"k": 10, "exclude": item_set},
        "allow set, exclude lists": {"k": 10, "allow": item_set, "exclude": lists},
    }


def answer(
    device: Any, way: Open, index: Index, search: Search, n_queries: int = N_QUERIES
) -> dict[str, Any]:
    """Raises where the answer is not the definition's."""
    queries = queries_of(index, n_queries)
    searcher = way(index, device)
    got = searcher.search(queries, **search)
    assert_answers(index, got, queries, **search)
    again = searcher.search(queries, **search)
    np.testing.assert_array_equal(again.item_ids, got.item_ids)
    return {}


def answer_flat(device: Any, index: FlatIndex, search: Search) -> dict[str, Any]:
    """Raises where the answer is not the definition's, be the scores of a query split or not."""
    queries = flat_queries(index, N_QUERIES)
    for changes in ({"n_parts": 1}, {"n_parts": 3}, {"chunk": 7}):
        searcher = ReplannedFlat(index, device, **changes)
        assert_flat_answers(index, searcher.search(queries, **search), queries, **search)
    return {}


def answer_odd(device: Any, name: str) -> dict[str, Any]:
    """Rows without a number have no answer, and harm no other row; for every number of probes."""
    index = small_index()
    queries, kept = with_odd_rows(queries_of(index, N_QUERIES))
    searcher = WAYS[name](index, device)
    for n_probes in (N_PROBES, 18, 20, 22, 24):
        counts, found = _padded(searcher, queries, n_probes)
        if counts[:4].any():
            raise AssertionError(f"{n_probes} probes: results for NaN or infinity: {counts[:4]}")
        assert_answers(index, found.take(kept), queries[kept], k=10, n_probes=n_probes)
    return {}


def answer_large(device: Any, name: str, value: float) -> dict[str, Any]:
    """Finite rows beyond the largest value have no answer, and harm no other row."""
    index = small_index()
    queries, kept = with_large_rows(queries_of(index, N_QUERIES), value)
    searcher = WAYS[name](index, device)
    for n_probes in (N_PROBES, 20, 24):
        counts, found = _padded(searcher, queries, n_probes)
        expected = 0 if value > largest_value(index.params.metric) else 10
        if (counts[:3] != expected).any():
            raise AssertionError(f"{n_probes} probes: {counts[:3]} results, expected {expected}")
        assert_answers(index, found.take(kept), queries[kept], k=10, n_probes=n_probes)
    return {}


class _Found:
    """Padded results on the host, of which some rows may be taken."""

    def __init__(self, counts: Any, scores: Any, item_ids: Any) -> None:
        self.counts, self.scores, self.item_ids = counts, scores, item_ids

    def take(self, rows: Any) -> Any:
        """The candidates of ``rows``."""
        return Candidates.from_rows(
            [
                (self.scores[row, : self.counts[row]], self.item_ids[row, : self.counts[row]])
                for row in rows
            ]
        )


def _padded(searcher: GpuSearcher, queries: Any, n_probes: int) -> tuple[Any, _Found]:
    """Searched as they are: ``search_padded`` looks at no query."""
    xp = searcher.device.xp
    results = searcher.search_padded(xp.asarray(queries), k=10, n_probes=n_probes)
    arrays = (results.counts, results.scores, results.item_ids)
    counts, scores, item_ids = (np.array(to_host(array)) for array in arrays)
    return counts, _Found(counts, scores, item_ids)
