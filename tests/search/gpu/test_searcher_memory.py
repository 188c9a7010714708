"""The memory of the GPU searcher, and the indexes that it refuses."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem import Index, ItemCodes, IVFPQParams
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu.device_index import device_bytes
from merlin_poeem.search.gpu.index_shape import index_shape
from merlin_poeem.search.gpu.plan import workspace_bytes_for_all, workspace_bytes_per_query
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_quantization,
    random_queries,
)
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.openers import needs_compiler, open_emulated


def workspace_of(searcher: GpuSearcher, batch: int) -> int:
    """What a chunk of ``batch`` queries takes in a batch of 20 to 32, not split over blocks."""
    shape = searcher._on_device.shape
    per_query = workspace_bytes_per_query(shape, 9, searcher.index.params.n_probes, n_parts=1)
    return workspace_bytes_for_all(shape, None) + batch * per_query


def test_small_workspace_gives_the_same_in_chunks(index: Index, searcher: GpuSearcher) -> None:
    queries = random_queries(index, 20)
    lists = random_id_lists(index, 20, 100)
    small = open_emulated(index, workspace_bytes=workspace_of(searcher, 3))
    assert small.plan(20, 9).chunk == 3
    assert small.plan(20, 9).workspace_bytes == small.workspace_bytes
    for search in ({"k": 9}, {"k": 9, "exclude": lists}, {"k": 9, "allow": lists}):
        assert_same(small.search(queries, **search), searcher.search(queries, **search))
    assert small.device.n_launches("choose_lists") == 3 * 7


def test_batch_whose_rounded_graph_does_not_fit(index: Index, searcher: GpuSearcher) -> None:
    small = open_emulated(index, workspace_bytes=workspace_of(searcher, 20))
    for batch in (16, 17, 20, 21, 32):
        queries = random_queries(index, batch)
        assert_same(small.search(queries, k=9), searcher.search(queries, k=9))


def test_workspace_too_small_for_a_query(index: Index) -> None:
    searcher = open_emulated(index, workspace_bytes=1000) if COMPILER else pytest.skip(NO_COMPILER)
    for call in (
        lambda: searcher.search(random_queries(index, 1), k=5),
        lambda: searcher.plan(1, 5),
    ):
        with pytest.raises(ValueError, match=r"workspace_bytes: .*at least \d{4}, .*; got 1000"):
            call()
    with pytest.raises(ValueError, match="workspace_bytes: expected at least 1, got 0"):
        open_emulated(index, workspace_bytes=0)


def test_index_larger_than_the_device(index: Index) -> None:
    class FullDevice(EmulatedDevice):
        @property
        def xp(self) -> Any:
            raise AssertionError("something is allocated")

    needed = device_bytes(index, index_shape(index))
    with pytest.raises(MemoryError, match=rf"{needed - 1} bytes, .*emulated H100; .*{needed}$"):
        GpuSearcher(index, FullDevice(free_bytes=needed - 1))


@needs_compiler
@settings(max_examples=50)
@given(
    st.sampled_from(METRICS),
    st.integers(0, 300),
    st.integers(1, 40),
    st.sampled_from([(4, 3), (8, 5), (8, 16)]),
    st.booleans(),
    st.booleans(),
)
def test_memory_needed_is_known_before(
    metric: str, n_items: int, n_lists: int, code: tuple[int, int], rotation: bool, residual: bool
) -> None:
    index = random_index(
        metric,
        n_items=n_items,
        n_lists=n_lists,
        pq_bits=code[0],
        pq_dim=code[1],
        rotation=rotation,
        encodes_residual=residual,
    )
    assert open_emulated(index).device_bytes <= device_bytes(index, index_shape(index))


@needs_compiler
@pytest.mark.parametrize(("metric", "extra"), [("inner_product", 0), ("cosine", 4), ("l2", 4)])
def test_device_memory_of_an_item(metric: str, extra: int) -> None:
    n, rng = 100_000, np.random.default_rng(0)
    quantization = random_quantization(rng, n_lists=100, pq_dim=8, pq_len=2)
    codes = ItemCodes(
        np.arange(n), np.repeat(np.arange(100), 1000), rng.integers(0, 256, (n, 8)).astype(np.uint8)
    )
    params = IVFPQParams(n_lists=100, pq_dim=8, metric=metric)  # type: ignore[arg-type]
    searcher = open_emulated(Index.from_codes(params, quantization, codes))
    assert 8 + 8 + extra < searcher.device_bytes / n <= (8 + 8 + extra) * 1.05


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"pq_bits": 12}, "pq_bits: expected at most 8 on the GPU, got 12"),
        ({"pq_dim": 65, "pq_len": 1}, "pq_dim: .*at most 64 .*pq_bits = 8, got 65"),
        (
            {"pq_dim": 129, "pq_len": 1, "pq_bits": 4},
            "pq_dim: .*at most 128 .*pq_bits = 4, got 129",
        ),
        ({"pq_dim": 1, "pq_len": 2048}, "2048 dimensions.*need 262144 bytes.*H100 has 232448"),
    ],
)
def test_unsupported_indexes(index: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GpuSearcher(random_index(**index), EmulatedDevice())


def test_more_items_than_row_numbers(index: Index) -> None:
    sizes = np.array([2**32 - 64, 33])
    huge = SimpleNamespace(params=index.params, n_items=int(sizes.sum()), list_sizes=sizes)
    with pytest.raises(ValueError, match=r"at most 134217727 groups .*got 134217728 of \d+ items"):
        index_shape(huge)


@needs_compiler
def test_dimensions_that_fill_the_shared_memory() -> None:
    index = random_index(pq_dim=4, pq_len=512, n_items=50)
    card = replace(EmulatedDevice().card, name="T4", shared_bytes_per_block=65536)
    device = EmulatedDevice(card=replace(card, shared_bytes_per_multiprocessor=65536))
    queries = random_queries(index, 9)
    assert_answers(index, GpuSearcher(index, device).search(queries, k=5), queries, k=5)
