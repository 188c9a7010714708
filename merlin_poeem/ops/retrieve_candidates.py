"""RetrieveCandidates: queries become the best items of an index, as list columns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from merlin.core.dispatch import DataFrameType, annotate
from merlin.dtypes import string
from merlin.schema import Tags
from nvtabular.ops.operator import ColumnSelector, Operator

from merlin_poeem.arrays import Float32, type_name
from merlin_poeem.frames.columns import library_of
from merlin_poeem.frames.item_ids import KeySet, as_item_set
from merlin_poeem.frames.queries import Queries, SearchOptions, column_or_set
from merlin_poeem.frames.search_frame import found_frame, search_with
from merlin_poeem.ops.index_operator import IndexOperator
from merlin_poeem.ops.saved_tower import copy_tower, fingerprint_of_tower, open_tower
from merlin_poeem.quantization.params import check_n_probes, positive_int
from merlin_poeem.search.item_set import ItemSet
from merlin_poeem.search.request import check_refine
from merlin_poeem.search.searcher import open_saved_searcher

_RESULTS = {"item_id": "ids", "score": "scores", "count": "count"}
_DTYPES = {"ids": np.int64, "scores": np.float32, "count": np.int64}


class RetrieveCandidates(IndexOperator):
    """
    This operation searches an index for each row's query vector, and returns the candidates::

        candidates = ["embedding"] >> RetrieveCandidates("items.index", k=100, exclude="seen")
        workflow = nvtabular.Workflow(candidates + ["user_id"])

    It is applied to one list column of vectors, or to ``dim`` columns of numbers; or, with a
    ``query_tower``, to the columns of user features that the tower reads::

        candidates = user_features >> RetrieveCandidates("items.index", 100, query_tower="tower")

    It gives ``candidate_ids`` (int64 lists, or lists of texts where the index has keys) and
    ``candidate_scores`` (float32 lists), best first, and ``candidate_count`` (int64), their length.
    Rows with fewer than ``k`` are not padded. These are the results of
    :func:`~merlin_poeem.search_frame`, pandas and cuDF alike; a tower runs in TensorFlow, which
    copies its features to the host.

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
    exclude : str or item ids, default None
        A list column of item ids that its row must not get, such as those seen; a null is an empty
        list. It need not be among the columns that the operator is applied to. Or the ids that no
        row may get, as an :class:`~merlin_poeem.ItemSet` or any flat collection of integers.
    backend : str, default "auto"
        As in :func:`~merlin_poeem.open_searcher`, chosen in each process.
    prefix : str, default "candidate"
        What the names of the new columns begin with.
    allow : str or item ids, default None
        A list column of the only item ids that its row may get; a null or an empty list allows
        none. Else as ``exclude``.
    query_tower : str or os.PathLike, default None
        The directory of a query tower saved by ``save_query_tower``
        (:mod:`merlin_poeem.blocks.export.query_tower`), of the model that the index was
        exported from. It is copied with the workflow, as the index is. Needs TensorFlow.
    refine : int, default None
        The best ``refine * k`` items by their codes are scored again by the vectors that the index
        holds; 0: none are. None takes the index's own default.

    Raises
    ------
    StaleIndexError
        The index was exported from another query tower: the model has been trained on since.
    ValueError
        Also where the index says nothing about the model that it is from, beside a ``query_tower``,
        and on a ``refine`` above 0 where it holds no vectors.
    """

    def __init__(
        self,
        index_path: str | os.PathLike[str],
        k: int,
        n_probes: int | None = None,
        exclude: Any = None,
        backend: str = "auto",
        prefix: str = "candidate",
        allow: Any = None,
        query_tower: str | os.PathLike[str] | None = None,
        refine: int | None = None,
    ) -> None:
        super().__init__(index_path)
        self.k = positive_int("k", k)
        if n_probes is not None:
            n_probes = check_n_probes(n_probes, self.index.n_lists)
        self.n_probes = n_probes
        self.refine = None if refine is None else check_refine(self.index, refine)
        self.exclude = self._filter("exclude", exclude)
        self.allow = self._filter("allow", allow)
        self.backend = _text("backend", backend)
        self.prefix = _text("prefix", prefix)
        self.tower_path = None if query_tower is None else str(Path(query_tower).resolve())
        self.tower_fingerprint = (
            "" if self.tower_path is None else fingerprint_of_tower(self.tower_path, self.index)
        )

    def arguments(self) -> dict[str, Any]:
        """As of :class:`~merlin_poeem.ops.index_operator.IndexOperator`; item ids become a list."""
        return {
            "k": self.k,
            "n_probes": self.n_probes,
            "exclude": _column_or_list(self.exclude),
            "backend": self.backend,
            "prefix": self.prefix,
            "allow": _column_or_list(self.allow),
            "refine": self.refine,
        }

    @property
    def copies(self) -> dict[str, str]:
        """As of :class:`~merlin_poeem.ops.index_operator.IndexOperator`, with the tower's."""
        if self.tower_path is None:
            return super().copies
        return {**super().copies, "query_tower": f"query-tower-{self.tower_fingerprint}"}

    @annotate("RetrieveCandidates_op", color="darkgreen", domain="merlin_poeem")
    def transform(self, col_selector: ColumnSelector, df: DataFrameType) -> DataFrameType:
        names = self._inputs_of(col_selector)
        # A plain index: one that is named, or has levels, would identify the queries.
        queries = df.reset_index(drop=True)
        found = self._search(names, queries)[list(_RESULTS)].rename(columns=self._names())
        found.index = df.index
        return found

    transform.__doc__ = Operator.transform.__doc__

    @property
    def dependencies(self) -> list[str]:
        return [name for name in (self.exclude, self.allow) if isinstance(name, str)]

    def column_mapping(self, col_selector: ColumnSelector) -> dict[str, list[str]]:
        names = self._inputs_of(col_selector)
        return {output: [*names, *self.dependencies] for output in self._names().values()}

    def set_storage_path(self, new_path: str | os.PathLike[str], copy: bool = False) -> None:
        """As of :class:`~merlin_poeem.ops.index_operator.IndexOperator`, for the tower too."""
        super().set_storage_path(new_path, copy)
        if self.tower_path is None:
            return
        bundled = Path(new_path).resolve() / self.copies["query_tower"]
        if copy:
            copy_tower(self.tower_path, self.tower_fingerprint, bundled)
        else:
            self.tower_path = str(bundled)

    def _search(self, names: list[str], frame: DataFrameType) -> DataFrameType:
        searcher = open_saved_searcher(self.index_path, self.fingerprint, self.backend)
        options = SearchOptions(
            k=self.k,
            vectors=names[0] if len(names) == 1 and self.index.dim > 1 else names,
            exclude=self.exclude,
            allow=self.allow,
            n_probes=self.n_probes,
            refine=self.refine,
            form="list",
        )
        if self.tower_path is None:
            return search_with(searcher, frame, options)
        index = searcher.index
        vectors, keys = self._vectors(frame), index.item_keys
        queries = Queries.read(frame, options, index.dim, vectors=vectors, keys=keys)
        return found_frame(searcher, library_of(frame), queries, options)

    def _filter(self, name: str, given: Any) -> str | ItemSet | KeySet | None:
        """``given``, checked to be of the kind of ids that the index has."""
        checked = column_or_set(name, given)
        if isinstance(checked, ItemSet | KeySet):
            as_item_set(name, checked, self.index.item_keys)
        return checked

    def _vectors(self, frame: DataFrameType) -> Float32:
        """The query tower's, of its features in ``frame``."""
        # Of an empty partition the executor hands on columns as the data had them, of any dtype.
        if not len(frame):
            return np.empty((0, self.index.dim), np.float32)
        return open_tower(str(self.tower_path), self.tower_fingerprint).vectors(frame)

    def _names(self) -> dict[str, str]:
        return {column: f"{self.prefix}_{result}" for column, result in _RESULTS.items()}

    def _inputs_of(self, col_selector: ColumnSelector) -> list[str]:
        names = [name for name in col_selector.names if name not in self.dependencies]
        if self.tower_path is not None:
            columns = open_tower(self.tower_path, self.tower_fingerprint).columns
            # One that is read by the tower and as a filter is among the dependencies.
            if set(names) != set(columns) - set(self.dependencies):
                raise ValueError(
                    f"columns: expected those of the query tower, {sorted(columns)}, got "
                    f"{sorted(col_selector.names)}"
                )
            return columns
        if len(names) not in (1, self.index.dim):
            raise ValueError(
                f"columns: expected one list column of vectors, or {self.index.dim} columns of "
                f"numbers, got {len(names)}: {names}"
            )
        return names

    def _compute_dtype(self, col_schema: Any, input_schema: Any) -> Any:
        result = col_schema.name.removeprefix(f"{self.prefix}_")
        is_key = result == "ids" and self.index.has_item_keys
        return col_schema.with_dtype(string if is_key else _DTYPES[result])

    def _compute_tags(self, col_schema: Any, input_schema: Any) -> Any:
        return col_schema.with_tags([Tags.LIST] if self._is_list(col_schema) else [])

    def _compute_properties(self, col_schema: Any, input_schema: Any) -> Any:
        return col_schema  # those of a vector say nothing about its candidates

    def _compute_shape(self, col_schema: Any, input_schema: Any) -> Any:
        lists = (None, (0, self.k))
        return col_schema.with_shape(lists if self._is_list(col_schema) else (None,))

    def _is_list(self, col_schema: Any) -> bool:
        return bool(col_schema.name != self._names()["count"])


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{name}: expected a str, got {given!r} ({type_name(given)})")
    return given


def _column_or_list(given: str | ItemSet | KeySet | None) -> str | list[int] | list[str] | None:
    if isinstance(given, ItemSet):
        return [int(item_id) for item_id in given.item_ids]
    return list(given.texts) if isinstance(given, KeySet) else given
