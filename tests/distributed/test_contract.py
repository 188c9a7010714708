"""The contract of every backend, through shards saved on disk and Dask frames of queries."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest

dask = pytest.importorskip("dask")

import dask.dataframe as dd  # noqa: E402
from hypothesis import given, settings  # noqa: E402

from merlin_poeem import Candidates, IdLists, Index, Searcher  # noqa: E402
from merlin_poeem.arrays import as_vectors  # noqa: E402
from merlin_poeem.distributed import search_ddf, shard_index  # noqa: E402
from merlin_poeem.quantization.stored_vectors import VectorDtype  # noqa: E402
from merlin_poeem.search.item_set import as_item_filter  # noqa: E402
from tests.index_factories import Rotation, random_index, random_queries  # noqa: E402
from tests.search import test_contract as contract  # noqa: E402

# A search takes Dask some 50 ms, which is why not all of the contract is here: what it leaves out,
# test_any_search draws.
test_item_set_is_its_ids_for_every_query = contract.test_item_set_is_its_ids_for_every_query
test_items_all_alike = contract.test_items_all_alike
test_lists_of_equal_score_are_taken_by_number = (
    contract.test_lists_of_equal_score_are_taken_by_number
)
test_one_item = contract.test_one_item
test_empty_index = contract.test_empty_index
test_only_empty_lists_are_visited = contract.test_only_empty_lists_are_visited
test_no_queries = contract.test_no_queries
test_default_n_probes_is_the_index_s = contract.test_default_n_probes_is_the_index_s
test_id_lists_of_every_form = contract.test_id_lists_of_every_form
test_bad_input = contract.test_bad_input
test_each_look_changes_the_answer = contract.test_each_look_changes_the_answer
test_equal_vectors_of_unequal_codes_come_by_id = (
    contract.test_equal_vectors_of_unequal_codes_come_by_id
)
test_a_second_look_at_few_items = contract.test_a_second_look_at_few_items
test_a_second_look_at_no_vectors_is_an_error = contract.test_a_second_look_at_no_vectors_is_an_error

N_SHARDS = 3


class ShardedSearcher:
    """Searches an index through its saved shards, a frame in two partitions, maybe empty ones."""

    backend = "reference"
    on_device = False

    def __init__(self, index: Index, folder: Path) -> None:
        self.index, self.folder = index, folder
        shard_index(index, max(1, min(N_SHARDS, index.n_items)), folder)

    def search(
        self,
        queries: Any,
        *,
        k: Any,
        n_probes: Any = None,
        refine: Any = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        # What frames cannot hold, or take: other than rows, another width or dtype, and other
        # numbers of lists than of queries.
        if queries.ndim != 2 or queries.shape[1] != self.index.dim or queries.dtype != np.float32:
            as_vectors("queries", queries, self.index.dim)
        frame = pd.DataFrame({"embedding": pd.Series(list(queries), dtype=object)})
        filters = {"exclude": exclude, "allow": allow}
        for name, given_ids in filters.items():
            filters[name] = lists = as_item_filter(name, given_ids, len(frame))
            if isinstance(lists, IdLists):
                rows = [lists.row(i).tolist() for i in range(len(lists))]
                frame[name] = pd.Series(rows, dtype=object)
                filters[name] = name
        middle = len(frame) // 2 if len(frame) > 2 else 0
        parts = [dask.delayed(frame[:middle]), dask.delayed(frame[middle:])]
        with dask.config.set({"dataframe.convert-string": False, "scheduler": "synchronous"}):
            found = search_ddf(
                self.folder,
                dd.from_delayed(parts, meta=frame[:0]),
                k=k,
                n_probes=n_probes,
                refine=refine,
                form="list",
                backend=self.backend,
                **filters,
            ).compute()
        rows = zip(found["score"], found["item_id"], strict=True)
        return Candidates.from_rows(list(rows))


@pytest.fixture
def open_index(tmp_path: Path) -> Callable[[Index], Searcher]:
    def opened(index: Index) -> ShardedSearcher:
        return ShardedSearcher(index, tmp_path / f"shards-{os.urandom(4).hex()}")

    return opened


@pytest.mark.parametrize(
    ("metric", "scales", "pq_bits", "rotation", "filters"),
    [
        ("inner_product", True, 8, True, "both"),
        ("inner_product", False, 4, "stretched", "none"),
        ("cosine", True, 4, "stretched", "allow"),
        ("cosine", True, 4, True, "none"),
        ("cosine", False, 4, False, "exclude"),
        ("l2", False, 8, False, "allow"),
    ],
)
def test_answers(
    open_index: Callable[[Index], Searcher],
    metric: str,
    scales: bool,
    pq_bits: int,
    rotation: Rotation,
    filters: str,
) -> None:
    contract.test_answers(open_index, metric, scales, pq_bits, rotation, filters)


@pytest.mark.parametrize(
    ("metric", "scales", "dtype", "filters"),
    [
        ("inner_product", True, "int8", "both"),
        ("cosine", False, "float16", "exclude"),
        ("l2", False, "float16", "allow"),
    ],
)
def test_answers_of_a_second_look(
    open_index: Callable[[Index], Searcher],
    metric: str,
    scales: bool,
    dtype: VectorDtype,
    filters: str,
) -> None:
    contract.test_answers_of_a_second_look(open_index, metric, scales, dtype, filters)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_duplicate_codes_come_by_id(open_index: Callable[[Index], Searcher], metric: str) -> None:
    index = random_index(metric, n_items=300, n_repeated=290)
    contract.check(open_index(index), random_queries(index, 6), k=100, n_probes=8)


@settings(max_examples=15)
@given(contract.searches())
def test_any_search(case: Any) -> None:
    with TemporaryDirectory() as folder:
        contract.check_case(lambda index: ShardedSearcher(index, Path(folder) / "shards"), *case)
