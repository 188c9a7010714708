"""A Searcher that asks an exported and reloaded QueryPoeem, as the contract tests want one."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from merlin.schema import ColumnSchema, Schema
from merlin.systems.dag import Ensemble
from merlin.table import TensorTable

from merlin_poeem import Candidates, IdLists, Index, ItemSet, save_index
from merlin_poeem.systems import QueryPoeem
from tests.serving.served import by_row

OPTIONS = {
    "exclude": "seen",
    "allow": "in_stock",
    "k_column": "k",
    "n_probes_column": "n_probes",
    "refine_column": "refine",
}


def vector_schema(dim: int, dtype: Any = np.float32) -> Schema:
    return Schema([ColumnSchema("query_vector", dtype=dtype, dims=(None, dim))])


def make_ensemble(index_path: Path, dim: int, **options: Any) -> Ensemble:
    """Query vectors, as they come in a request, and the search."""
    step = QueryPoeem(index_path, **options)
    return Ensemble(["query_vector"] >> step, vector_schema(dim) + step.option_schema())


def reload(ensemble: Ensemble, folder: Path) -> Ensemble:
    """As Triton gets it: exported, read back, its artifacts loaded."""
    ensemble.export(str(folder))
    exported = folder / "executor_model" / "1" / "ensemble"
    loaded = Ensemble.load(str(exported))
    loaded.graph.output_node.op.load_artifacts(str(exported))
    return loaded


def flat(lists: Any, n_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets, the values of the dtype that they have."""
    if lists is None:
        return np.empty(0, np.int64), np.zeros(1, np.int32)
    if isinstance(lists, ItemSet):
        lists = [lists.item_ids] * n_queries
    if isinstance(lists, IdLists):
        return lists.values, lists.offsets.astype(np.int32)
    rows = [np.asarray(() if row is None else row) for row in lists]
    filled = [row for row in rows if len(row)]
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return np.concatenate(filled) if filled else np.empty(0, np.int64), offsets


class ServedSearcher:
    """An index behind an ensemble that was exported with it; the saved index is gone by then."""

    backend = "triton"
    on_device = False

    def __init__(self, index: Index) -> None:
        self.index = index
        self._folder = TemporaryDirectory()
        folder = Path(self._folder.name)
        save_index(index, folder / "index")
        ensemble = make_ensemble(folder / "index", index.dim, **OPTIONS)
        self.ensemble = reload(ensemble, folder / "repository")
        shutil.rmtree(folder / "index")

    def search(
        self,
        queries: np.ndarray,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        table = {
            "query_vector": queries,
            "seen": flat(by_row("exclude", exclude, len(queries)), len(queries)),
            "in_stock": flat(by_row("allow", allow, len(queries)), len(queries)),
            "k": np.array([k]),
            "n_probes": np.array([] if n_probes is None else [n_probes], np.int64),
            "refine": np.array([]).astype(int) if refine is None else np.array([refine]),
        }
        return answer_of(self.ensemble.transform(TensorTable(table)))


def answer_of(table: TensorTable) -> Candidates:
    """The columns of a response as Candidates, their offsets checked against the count."""
    counts = table["candidate_count"].values
    found = Candidates(counts, table["candidate_scores"].values, table["candidate_ids"].values)
    for name in ("candidate_scores", "candidate_ids"):
        np.testing.assert_array_equal(table[name].offsets, found.offsets)
        assert table[name].offsets.dtype == np.int32
    return found
