"""The bulk path: the answers of the scan, whatever the tensor cores round."""

from collections.abc import Callable

import numpy as np
import pytest

from merlin_poeem import Index, ItemCodes, ItemSet, IVFPQParams, Quantization
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu.bulk_plan import BulkPlan
from merlin_poeem.search.gpu.index_shape import IndexShape
from merlin_poeem.search.gpu.plan import plan_search
from tests.index_factories import random_index, random_queries
from tests.search.gpu.answers import assert_same
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import H100, EmulatedDevice
from tests.search.gpu.openers import ReplannedSearcher

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

LAUNCHED_BY_BULK = {"count_pairs", "place_pairs", "find_candidates"}


def open_bulk(
    index: Index, n_noted: int, edit: Callable[[str, str], str] | None = None
) -> ReplannedSearcher:
    """A searcher that scans the best list and multiplies the others."""
    padded = -(-index.dim // 16) * 16
    bulk = BulkPlan(n_seeds=1, n_noted=n_noted, tile_shared_bytes=2 * 192 * (padded + 8))
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
    assert {launch.name for launch in bulk.device.launches} >= LAUNCHED_BY_BULK


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
    assert not {launch.name for launch in bulk.device.launches} & LAUNCHED_BY_BULK


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
        return source.replace("own.margin = ", "own.margin = 0.0f * ")

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
    largest_list=4000,
)


@pytest.mark.parametrize(
    ("batch", "n_probes", "path"), [(1, 64, "scan"), (16384, 64, "bulk"), (16384, 1, "scan")]
)
def test_many_queries_a_list_are_searched_in_bulk(batch: int, n_probes: int, path: str) -> None:
    plan = plan_search(H100, CATALOG, batch, 100, n_probes, 1 << 30)
    assert plan.path == path
    assert (plan.bulk is not None) == (path == "bulk")
