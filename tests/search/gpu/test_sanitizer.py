"""No kernel reads or writes outside an array or its shared memory: AddressSanitizer looks on."""

from importlib.util import find_spec
from itertools import product
from typing import Any

import pytest

from merlin_poeem import ItemSet
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.stored_vectors import FLAT_DTYPES, VECTOR_DTYPES
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.flat_factories import assert_flat_answers, flat_queries, random_flat
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_item_set,
    random_queries,
)
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.emulation.sanitizer import run_sanitized, sanitizer_libraries
from tests.search.gpu.openers import BULK, ReplannedFlat, ReplannedSearcher

# Kernels are the same in both environments, and this takes long.
ELSEWHERE = find_spec("tensorflow") is not None


def search_all() -> None:
    """Every kernel, with what each is told to leave out or to do otherwise."""
    split = {"n_parts": 3, "chunk": 2, "sorts_probes": False, "captured_batch": None}
    compact = {"lut_layout": "compact", "captured_batch": None}
    for metric, changes, filters, search in (
        ("inner_product", {}, None, {"k": 10}),
        ("l2", split, random_id_lists, {"k": 300, "n_probes": 7}),
        ("cosine", compact, random_item_set, {"k": 2000, "n_probes": 8}),
        ("l2", BULK, random_item_set, {"k": 10, "n_probes": 8}),
    ):
        index = random_index(metric, n_items=600, pq_dim=12, pq_len=1, rotation=True)
        queries = random_queries(index, 3)
        arguments: dict[str, Any] = dict(search)
        if filters is random_item_set:
            arguments["exclude"] = random_item_set(index, 150)
            arguments["allow"] = random_item_set(index, 400, seed=3)
        elif filters is random_id_lists:
            arguments["exclude"] = random_id_lists(index, 3, 150)
            arguments["allow"] = random_id_lists(index, 3, 400, seed=3)
        searcher = ReplannedSearcher(index, EmulatedDevice(sanitize=True), **changes)
        assert_answers(index, searcher.search(queries, **arguments), queries, **arguments)
    look_again()
    search_flat()


def look_again() -> None:
    """Rows that end inside 16 bytes; all items, the last one's among them."""
    for metric, dtype in product(("cosine", "l2"), VECTOR_DTYPES):
        index = random_index(metric, n_items=300, pq_dim=3, pq_len=11, vectors=dtype)
        queries = random_queries(index, 3)
        searcher = GpuSearcher(index, EmulatedDevice(sanitize=True))
        for search in (
            {"k": 150, "n_probes": 8, "refine": 2},
            {"k": 5, "refine": 3, "exclude": random_id_lists(index, 3, 150)},
        ):
            assert_answers(index, searcher.search(queries, **search), queries, **search)


def search_flat() -> None:
    """Vectors that end inside 16 bytes, of two slabs; fewer queries than a block takes."""
    for metric, dtype in zip(METRICS, FLAT_DTYPES, strict=True):
        index = random_flat(metric, dtype, n_items=1100, dim=131)
        queries = flat_queries(index, 11)
        lists = [index.item_ids[::3]] * len(queries)
        for search in ({"k": 1100}, {"k": 5, "exclude": lists, "allow": ItemSet(index.item_ids)}):
            searcher = ReplannedFlat(index, EmulatedDevice(sanitize=True), n_parts=3, chunk=4)
            found = searcher.search(queries, **search)
            assert_flat_answers(index, found, queries, **search)


def read_past_an_array() -> None:
    """What the sanitizer must not let pass."""

    def edit(file: str, text: str) -> str:
        return text.replace("group_offsets[list + 1]", "group_offsets[list + 2]")

    index = random_index(n_items=50)
    device = EmulatedDevice(sanitize=True, edit=edit)
    ReplannedSearcher(index, device).search(random_queries(index, 1), k=1, n_probes=8)


@pytest.mark.skipif(ELSEWHERE, reason="runs in the current environment")
@pytest.mark.skipif(sanitizer_libraries() is None, reason="g++ has no address sanitizer")
def test_kernels_stay_inside_their_arrays() -> None:
    done = run_sanitized(
        "from tests.search.gpu.test_sanitizer import read_past_an_array, search_all\n"
        "search_all()\n"
        "print('searched', flush=True)\n"
        "read_past_an_array()\n"
        "print('read past an array', flush=True)\n"
    )
    assert done.stdout == "searched\n", done.stderr
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "lists.cu" in done.stderr
