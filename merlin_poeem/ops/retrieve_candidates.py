"""RetrieveCandidates: query vectors become the best items of an index, as list columns."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from merlin.core.dispatch import DataFrameType, annotate
from merlin.schema import Tags
from nvtabular.ops.operator import ColumnSelector, Operator

from merlin_poeem.ops.index_operator import IndexOperator, open_saved_searcher
from merlin_poeem.params import check_n_probes, positive_int
from merlin_poeem.search.frames import search_frame

_RESULTS = {"item_id": "ids", "score": "scores", "count": "count"}
_DTYPES = {"ids": np.int64, "scores": np.float32, "count": np.int64}


class RetrieveCandidates(IndexOperator):
    """
    This operation searches an index for each row's query vector, and returns the candidates::

        candidates = ["embedding"] >> RetrieveCandidates("items.index", k=100, exclude="seen")
        workflow = nvtabular.Workflow(candidates + ["user_id"])

    It is applied to one list column of float32 vectors, or to ``dim`` float32 columns, and gives
    ``candidate_ids`` (int64 lists) and ``candidate_scores`` (float32 lists), best first, and
    ``candidate_count`` (int64), their length. Rows with fewer than ``k`` are not padded. These are
    the results of :func:`~merlin_poeem.search.frames.search_frame`, pandas and cuDF alike.

    ``Workflow.fit`` reads the dtypes of lists from the first partition with rows, and in pandas
    fails where none of those rows has a candidate; ``Workflow.fit_schema`` needs no data.

    Parameters
    ----------
    index_path : str or os.PathLike
        The directory of a saved index. ``Workflow.save`` copies it into the workflow's folder.
    k : int
        Candidates wanted per row.
    n_probes : int, default None
        Lists visited per row; None takes the index's own default.
    exclude : str, default None
        A list column of item ids that its row must not get, such as those seen; a null is an empty
        list. It need not be among the columns that the operator is applied to.
    backend : str, default "auto"
        As in :func:`~merlin_poeem.search.searcher.open_searcher`, chosen in each process.
    prefix : str, default "candidate"
        What the names of the new columns begin with.
    """

    def __init__(
        self,
        index_path: str | os.PathLike[str],
        k: int,
        n_probes: int | None = None,
        exclude: str | None = None,
        backend: str = "auto",
        prefix: str = "candidate",
    ) -> None:
        super().__init__(index_path)
        self.k = positive_int("k", k)
        if n_probes is not None:
            n_probes = check_n_probes(n_probes, self.index.n_lists)
        self.n_probes = n_probes
        self.exclude = exclude
        self.backend = backend
        self.prefix = prefix

    @annotate("RetrieveCandidates_op", color="darkgreen", domain="merlin_poeem")
    def transform(self, col_selector: ColumnSelector, df: DataFrameType) -> DataFrameType:
        names = self._vectors_of(col_selector)
        found = search_frame(
            open_saved_searcher(self.index_path, self.fingerprint, self.backend),
            # A plain index: one that is named, or has levels, would identify the queries.
            df.reset_index(drop=True),
            k=self.k,
            vectors=names[0] if len(names) == 1 and self.index.dim > 1 else names,
            exclude=self.exclude,
            n_probes=self.n_probes,
            form="list",
        )
        found = found[list(_RESULTS)].rename(columns=self._names())
        found.index = df.index
        return found

    transform.__doc__ = Operator.transform.__doc__

    @property
    def dependencies(self) -> list[str]:
        return [] if self.exclude is None else [self.exclude]

    def column_mapping(self, col_selector: ColumnSelector) -> dict[str, list[str]]:
        names = self._vectors_of(col_selector)
        return {output: [*names, *self.dependencies] for output in self._names().values()}

    def _names(self) -> dict[str, str]:
        return {column: f"{self.prefix}_{result}" for column, result in _RESULTS.items()}

    def _vectors_of(self, col_selector: ColumnSelector) -> list[str]:
        names = [name for name in col_selector.names if name != self.exclude]
        if len(names) not in (1, self.index.dim):
            raise ValueError(
                f"columns: expected one list column of vectors, or {self.index.dim} columns of "
                f"float32, got {len(names)}: {names}"
            )
        return names

    def _compute_dtype(self, col_schema: Any, input_schema: Any) -> Any:
        return col_schema.with_dtype(_DTYPES[col_schema.name.removeprefix(f"{self.prefix}_")])

    def _compute_tags(self, col_schema: Any, input_schema: Any) -> Any:
        return col_schema.with_tags([Tags.LIST] if self._is_list(col_schema) else [])

    def _compute_properties(self, col_schema: Any, input_schema: Any) -> Any:
        return col_schema  # those of a vector say nothing about its candidates

    def _compute_shape(self, col_schema: Any, input_schema: Any) -> Any:
        lists = (None, (0, self.k))
        return col_schema.with_shape(lists if self._is_list(col_schema) else (None,))

    def _is_list(self, col_schema: Any) -> bool:
        return bool(col_schema.name != self._names()["count"])
