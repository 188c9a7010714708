"""The bulk path: the answers of the scan, whatever the tensor cores round."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from merlin_poeem import Index, ItemCodes, ItemSet, IVFPQParams, Quantization
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu.bulk_plan import BulkPlan, held_steps, is_bulk_faster
from merlin_poeem.search.gpu.index_shape import IndexShape, index_shape
from merlin_poeem.search.gpu.plan import plan_search
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import random_index, random_quantization, random_queries
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import H100, EmulatedDevice
from tests.search.gpu.openers import ReplannedSearcher

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

LAUNCHED_BY_BULK = {"count_pairs", "end_lists", "place_pairs", "find_candidates"}


def launched(searcher: GpuSearcher) -> set[str]:
    """Names of kernels, without their template arguments."""
    return {launch.name.partition("<")[0] for launch in searcher.device.launches}


def open_bulk(
    index: Index, n_noted: int, edit: Callable[[str, str], str] | None = None
) -> ReplannedSearcher:
    """A searcher that scans the best list and multiplies the others."""
    bulk = BulkPlan(n_seeds=1, n_noted=n_noted)
    device = EmulatedDevice(edit=edit)
    return ReplannedSearcher(index, device, path="bulk", bulk=bulk, captured_batch=None)


def open_scan(index: Index) -> ReplannedSearcher:
    """A searcher that scans all lists."""
    return ReplannedSearcher(index, EmulatedDevice(), path="scan", bulk=None, captured_batch=None)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_noted", [1, 4096], ids=["no room", "room"])
def test_bulk_and_scan_answer_alike(metric: str, n_noted: int) -> None:
    # 150 queries of 5 dimensions a byte and 20 in all: tiles of queries, items and dimensions that
    # are filled in part.
    index = random_index(metric, n_items=1500, n_lists=5, pq_len=5, rotation=True)
    queries = random_queries(index, 150)
    bulk = open_bulk(index, n_noted)
    assert_same(
        bulk.search(queries, k=10, n_probes=4), open_scan(index).search(queries, k=10, n_probes=4)
    )
    assert launched(bulk) >= LAUNCHED_BY_BULK


@pytest.mark.parametrize(
    ("pq_bits", "pq_dim", "pq_len", "steps"),
    [
        # Codewords copied 16, 8, 4 and 2 bytes at a time; products from registers and from memory.
        (8, 8, 8, 4),
        (8, 12, 4, 4),
        (8, 36, 2, 8),
        (8, 44, 1, 4),
        (8, 9, 15, 0),
        (4, 7, 8, 4),
        (4, 5, 3, 4),
        (8, 6, 40, 0),
    ],
)
def test_codes_of_any_width_are_decoded(pq_bits: int, pq_dim: int, pq_len: int, steps: int) -> None:
    index = random_index(
        "cosine", n_items=700, n_lists=3, pq_bits=pq_bits, pq_dim=pq_dim, pq_len=pq_len
    )
    queries = random_queries(index, 70)
    bulk, scan = open_bulk(index, 4096), open_scan(index)
    assert held_steps(index_shape(index)) == steps
    assert_same(bulk.search(queries, k=10, n_probes=3), scan.search(queries, k=10, n_probes=3))


def test_queries_of_a_tile_are_shared_by_blocks() -> None:
    index = random_index(n_items=700, n_lists=3)
    queries = random_queries(index, 300)
    plan = BulkPlan(n_seeds=1, n_noted=4096, tile_parts=2)
    device = EmulatedDevice()
    bulk = ReplannedSearcher(index, device, path="bulk", bulk=plan, captured_batch=None)
    expected = open_scan(index).search(queries, k=10, n_probes=3)
    assert_same(bulk.search(queries, k=10, n_probes=3), expected)
    assert {launch.grid[1] for launch in device.launches if launch.file == "tiles.cu"} == {2}


class WatchedDevice(EmulatedDevice):
    """Counts the items that are noted for each query."""

    def __init__(self) -> None:
        super().__init__()
        self.n_noted: list[int] = []

    def kernel(self, file: str, name: str) -> Any:
        """See ``Device.kernel``."""
        kernel = super().kernel(file, name)

        def launch(grid: Any, block: Any, args: Any, shared_bytes: int = 0) -> None:
            kernel(grid, block, args, shared_bytes)
            if file == "tiles.cu":
                for groups, n in zip(*args[-2:], strict=True):
                    items = np.ascontiguousarray(groups[:n, 1]).view(np.uint8)
                    self.n_noted.append(int(np.unpackbits(items).sum()))

        return launch


def test_what_is_noted_is_hardly_more_than_what_reaches_the_threshold() -> None:
    rng = np.random.default_rng(0)
    quantization = random_quantization(rng, n_lists=5, pq_dim=8, pq_len=8)
    codes = ItemCodes(
        np.arange(2000), np.repeat(np.arange(5), 400), rng.integers(0, 256, (2000, 8), np.uint8)
    )
    params = IVFPQParams(n_lists=5, pq_dim=8, n_probes=5)
    index = Index.from_codes(params, quantization, codes)
    queries, device = random_queries(index, 100), WatchedDevice()
    plan = BulkPlan(n_seeds=1, n_noted=4096)
    ReplannedSearcher(index, device, path="bulk", bulk=plan, captured_batch=None).search(
        queries, k=10
    )
    everything = open_scan(index).search(queries, k=2000).padded(2000, fill_id=-1)
    seeds = open_scan(index).search(queries, k=10, n_probes=1)
    seeded = open_scan(index).search(queries, k=2000, n_probes=1).padded(2000, fill_id=-1)
    thresholds = seeds.scores.reshape(100, 10)[:, -1:]
    needed = (everything[0] >= thresholds).sum(axis=1) - (seeded[0] >= thresholds).sum(axis=1)
    noted = np.array(device.n_noted)
    assert (needed <= noted).all()
    assert needed.sum() < noted.sum() < 1.5 * needed.sum()


def test_bulk_honours_an_item_set() -> None:
    index = random_index(n_items=1500, n_lists=5)
    queries, hidden = random_queries(index, 40), ItemSet(index.item_ids[::2])
    got = open_bulk(index, 4096).search(queries, k=10, n_probes=4, exclude=hidden)
    assert_same(got, open_scan(index).search(queries, k=10, n_probes=4, exclude=hidden))
    assert not np.isin(got.item_ids, hidden.item_ids).any()


def test_id_lists_are_scanned() -> None:
    index = random_index(n_items=500, n_lists=5)
    bulk = open_bulk(index, 4096)
    bulk.search(random_queries(index, 3), k=5, n_probes=4, exclude=[[1], [], [2]])
    assert not launched(bulk) & LAUNCHED_BY_BULK


def index_of_near_ties() -> Index:
    """Two lists whose items are alike to 1 part in 5,000, less than bf16 can tell."""
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((4, 256, 8)).astype(np.float32)
    codebook[:, 1::2] = codebook[:, ::2] * rng.normal(1, 2e-4, (4, 128, 8))
    centroids = np.zeros((2, 32), np.float32)
    centroids[1, 0] = 1e-6
    codes = 2 * rng.integers(0, 128, (60, 4))
    both = np.concatenate([codes, codes + 1]).astype(np.uint8)
    lists = np.repeat(np.arange(2), 60).astype(np.int32)
    params = IVFPQParams(n_lists=2, pq_dim=4, n_probes=2)
    return Index.from_codes(
        params, Quantization(centroids, codebook), ItemCodes(np.arange(120), lists, both)
    )


def test_candidates_within_the_rounding_are_not_lost() -> None:
    index = index_of_near_ties()
    queries = random_queries(index, 100)
    expected = open_scan(index).search(queries, k=1)
    assert_same(open_bulk(index, 4096).search(queries, k=1), expected)

    def without_margin(file: str, source: str) -> str:
        return source.replace("const float margin = margins[query]", "const float margin = 0.0f")

    lossy = open_bulk(index, 4096, without_margin).search(queries, k=1)
    assert (lossy.item_ids != expected.item_ids).any()


CATALOG = IndexShape(
    n_items=4_300_000,
    n_lists=4096,
    n_groups=140_000,
    dim=64,
    code_bytes=16,
    byte_len=4,
    metric="inner_product",
    n_tiles=36_000,
)


@pytest.mark.parametrize(
    ("batch", "n_probes", "path"), [(1, 64, "scan"), (16384, 64, "bulk"), (16384, 1, "scan")]
)
def test_many_queries_a_list_are_searched_in_bulk(batch: int, n_probes: int, path: str) -> None:
    plan = plan_search(H100, CATALOG, batch, 100, n_probes, 1 << 30)
    assert plan.path == path
    assert (plan.bulk is not None) == (path == "bulk")


@pytest.mark.parametrize("batch", [5000, 16384, 20000, 50000, 100_000])
@pytest.mark.parametrize("n_probes", [16, 32, 64])
def test_bulk_is_planned_for_what_a_chunk_holds(batch: int, n_probes: int) -> None:
    shape = replace(CATALOG, n_lists=1024)
    plan = plan_search(H100, shape, batch, 100, n_probes, 512 << 20)
    if plan.path == "bulk":
        assert is_bulk_faster(shape, plan.chunk, 100, n_probes, plan.bulk)
