"""A served version in this process: exported, opened as the server does, asked with tensors."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from merlin_poeem import Candidates, IdLists, Index, save_index
from merlin_poeem.search.item_set import ItemSet, as_item_filter
from merlin_poeem.serving import export_search
from merlin_poeem.serving.retrieval import FILL_ID, FILL_SCORE, Answer, Retrieval

Arrays = dict[str, np.ndarray]


def exported(index: Index, folder: Path, **options: Any) -> Path:
    """The folder of a first version of ``index``; the saved index is gone by then."""
    save_index(index, folder / "index")
    options = {"backend": "faiss", "largest_k": 1 << 20, **options}
    served = export_search(folder / "index", folder / "repository", **options)
    shutil.rmtree(folder / "index")
    return served.folder


def column(values: Any, n_rows: int) -> np.ndarray:
    """(n_rows, 1) int32 of one number, or one a row."""
    return np.broadcast_to(np.asarray(values, np.int32).reshape(-1, 1), (n_rows, 1))


def list_tensors(name: str, lists: Any, n_rows: int) -> Arrays:
    """A matrix as wide as the longest row, filled with what means nothing, and the counts."""
    if lists is None:
        return {}
    if isinstance(lists, ItemSet):
        lists = [lists.item_ids] * n_rows
    rows = [lists.row(i) for i in range(len(lists))] if isinstance(lists, IdLists) else lists
    rows = [np.asarray([] if row is None else row) for row in rows]
    counts = np.array([len(row) for row in rows])
    dtype = next((row.dtype for row in rows if len(row)), np.dtype(np.int64))
    matrix = np.full((len(rows), counts.max(initial=0)), 7, dtype)
    for row, filled in zip(rows, matrix, strict=True):
        filled[: len(row)] = row
    return {name: matrix, f"{name}_count": column(counts, len(rows))}


def request_of(queries: np.ndarray, **options: Any) -> Arrays:
    """The tensors of a request; ``exclude`` and ``allow`` are lists, the others numbers."""
    n_rows = len(queries)
    arrays = {"query_vector": queries}
    for name in ("exclude", "allow"):
        arrays |= list_tensors(name, options.pop(name, None), n_rows)
    for name, value in options.items():
        if value is not None:
            arrays[name] = column(value, n_rows)
    return arrays


def candidates_of(arrays: Arrays) -> Candidates:
    """What an answer's tensors hold up to each count, what is beyond it checked."""
    counts = arrays["counts"].reshape(-1).astype(np.int64)
    filled = np.arange(arrays["scores"].shape[1]) < counts[:, None]
    assert (arrays["scores"][~filled] == np.float32(FILL_SCORE)).all()
    assert (arrays["item_ids"][~filled] == FILL_ID).all()
    return Candidates(counts, arrays["scores"][filled], arrays["item_ids"][filled])


def answered(answer: Answer | Exception) -> Arrays:
    """The tensors; raises what was wrong with the request."""
    if isinstance(answer, Exception):
        raise answer
    return answer.arrays


class ServedSearcher:
    """An index behind a served version, as the contract tests want one."""

    backend = "served"
    on_device = False

    def __init__(self, index: Index) -> None:
        self.index = index
        with TemporaryDirectory() as folder:
            self.retrieval = Retrieval(exported(index, Path(folder)))
            if index.has_vectors:
                _ = self.retrieval.index.vectors  # read before the folder goes

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
        options = {"k": k, "n_probes": n_probes, "refine": refine}
        filters = {
            name: by_row(name, given, len(queries))
            for name, given in (("exclude", exclude), ("allow", allow))
        }
        (answer,) = self.retrieval.answer([request_of(queries, **options, **filters)])
        return candidates_of(answered(answer))


def by_row(name: str, given: Any, n_queries: int) -> Any:
    """Lists as they are; ids for all rows checked, as what is neither fits in no request."""
    is_lists = isinstance(given, list) and any(hasattr(row, "__len__") for row in given)
    return given if is_lists else as_item_filter(name, given, n_queries)
