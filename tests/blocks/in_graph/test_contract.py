"""The contract of every backend for the in-graph search, live and saved, and RetrieveCandidates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from merlin.schema import ColumnSchema, Schema

from merlin_poeem import Candidates, IdLists, Index, save_index
from merlin_poeem.blocks.in_graph.searcher import TensorFlowSearcher
from merlin_poeem.ops import RetrieveCandidates
from tests.index_factories import Rotation
from tests.search import test_contract as contract
from tests.search.test_contract import *  # noqa: F403

# Of the right half's backends; test_any_search_in_tensorflow and test_any_search_once_saved follow.
del test_any_search  # noqa: F821


class _Saved:
    """What adapters of saved things share: each instance saves into a folder of its own."""

    on_device = False

    def __init__(self, index: Index, folder: Path) -> None:
        self.index = index
        self.folder = folder / f"{len(list(folder.iterdir()))}"
        self.folder.mkdir()


class SavedModelSearcher(_Saved):
    """The layer's search, saved and loaded by TensorFlow alone."""

    def __init__(self, index: Index, folder: Path) -> None:
        super().__init__(index, folder)
        module = tf.Module()
        live = TensorFlowSearcher(index)
        module.state, module.search = live.layer.variables, live.layer.search
        tf.saved_model.save(module, str(self.folder))
        # All but the graph is that of the live searcher.
        self._searcher, self._loaded = live, tf.saved_model.load(str(self.folder))
        live.layer.search = self._loaded.search

    def search(self, queries: np.ndarray, **search: Any) -> Candidates:
        return self._searcher.search(queries, **search)


class WorkflowSearcher(_Saved):
    """RetrieveCandidates in a workflow, saved and loaded for each search."""

    def __init__(self, index: Index, folder: Path) -> None:
        super().__init__(index, folder)
        save_index(index, self.folder / "index")

    def search(self, queries: np.ndarray, **search: Any) -> Candidates:
        vectors = queries[:, 0] if self.index.dim == 1 else pd.Series(list(queries), dtype=object)
        frame = pd.DataFrame({"vector": vectors})
        columns = [ColumnSchema("vector", dtype=np.float32, dims=(None, self.index.dim))]
        for name in ("exclude", "allow"):
            if search.get(name) is not None:
                lists = [contract.ids_for(search[name], i) for i in range(len(queries))]
                frame[name] = pd.Series(lists, dtype=object)
                columns.append(ColumnSchema(name, dtype=np.int64, dims=(None, (0, None))))
                search[name] = name
        op = RetrieveCandidates(self.folder / "index", **search)
        nvt.Workflow(["vector"] >> op).fit_schema(Schema(columns)).save(self.folder / "workflow")
        found = nvt.Workflow.load(self.folder / "workflow").transform(frame)
        ids = IdLists.from_rows(found["candidate_ids"]).values
        scores = np.concatenate([np.empty(0, np.float32), *found["candidate_scores"]])
        return Candidates(found["candidate_count"].to_numpy(), scores, ids)


SAVED = {"SavedModel": SavedModelSearcher, "workflow": WorkflowSearcher}


@pytest.fixture(scope="module")
def searchers() -> dict[bytes, TensorFlowSearcher]:
    return {}


@pytest.fixture
def open_index(
    searchers: dict[bytes, TensorFlowSearcher],
) -> Callable[[Index], TensorFlowSearcher]:
    """Opens an index, or gives the searcher of one with the same contents."""

    def open_once(index: Index) -> TensorFlowSearcher:
        quantization = index.quantization
        arrays = [quantization.coarse_centroids, index.item_ids, index.packed_codes]
        arrays += [array for array in (index.scales, index.list_factors) if array is not None]
        key = repr(index).encode() + b"".join(array.tobytes() for array in arrays)
        if index.vectors is not None:
            arrays = [index.vectors.values, index.vectors.scales]
            key += index.vectors.dtype.encode() + b"".join(array.tobytes() for array in arrays)
        rotation = quantization.rotation_of_queries
        key += b"" if rotation is None else rotation.tobytes()
        key += bytes([quantization.encodes_residual])
        key += bytes([index.refine])
        if key not in searchers:
            searchers[key] = TensorFlowSearcher(index)
        return searchers[key]

    return open_once


@settings(max_examples=5)
@given(contract.searches())
def test_any_search_in_tensorflow(case: tuple[Index, np.ndarray, dict[str, object]]) -> None:
    contract.check_case(TensorFlowSearcher, *case)


@pytest.fixture(scope="module", params=SAVED)
def open_saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Index], Any]:
    """Opens an index by way of what is saved and loaded."""
    folder = tmp_path_factory.mktemp("saved")
    return lambda index: SAVED[request.param](index, folder)


@settings(max_examples=3)
@given(case=contract.searches())
def test_any_search_once_saved(
    open_saved: Callable[[Index], Any], case: tuple[Index, np.ndarray, dict[str, object]]
) -> None:
    contract.check_case(open_saved, *case)


# A selection: to save a graph takes seconds, and the searches above draw the other metrics. Bad
# input does not get as far as what is saved.
@pytest.mark.parametrize(
    ("metric", "scales", "rotation"),
    [("inner_product", True, "stretched"), ("cosine", False, True)],
)
def test_answers_once_saved(
    open_saved: Callable[[Index], Any], metric: str, scales: bool, rotation: Rotation
) -> None:
    contract.test_answers(open_saved, metric, scales, 8, rotation, filters="both")
    contract.test_empty_index(open_saved, "l2")


@pytest.mark.parametrize(
    ("scaled", "dtype"), [(("inner_product", True), "int8"), (("l2", False), "float16")]
)
def test_answers_of_a_second_look_once_saved(
    open_saved: Callable[[Index], Any], scaled: tuple[str, bool], dtype: str
) -> None:
    contract.test_answers_of_a_second_look(open_saved, *scaled, dtype, filters="both")


def test_item_sets_and_defaults_once_saved(open_saved: Callable[[Index], Any]) -> None:
    contract.test_item_set_is_its_ids_for_every_query(open_saved, "cosine")
    contract.test_default_n_probes_is_the_index_s(open_saved)
    contract.test_each_look_changes_the_answer(open_saved)
    contract.test_a_second_look_at_few_items(open_saved, "cosine")
    contract.test_only_empty_lists_are_visited(open_saved)
    contract.test_no_queries(open_saved)
