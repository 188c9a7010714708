"""QueryPoeem: a step of a Merlin Systems ensemble that searches an index for a batch of vectors."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from merlin.dag import BaseOperator, ColumnSelector, DataFormats
from merlin.schema import ColumnSchema, Schema, Tags
from merlin.table import TensorTable
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64, as_item_ids, as_vectors, type_name
from merlin_poeem.index.copies import copy_index, fingerprint_of
from merlin_poeem.index.loading import load_index
from merlin_poeem.quantization.params import check_n_probes, positive_int
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.request import check_refine
from merlin_poeem.search.searcher import Searcher, open_saved_searcher
from merlin_poeem.serving.own_options import OF_INDEX, search_rows

MOST_CANDIDATES = 2**31 - 1
"""Of a request: Merlin's offsets are int32."""

logger = logging.getLogger(__name__)


class QueryPoeem(BaseOperator):
    """
    This operator searches a saved index for each row's query vector::

        vectors = user_features >> PredictTensorflow(saved_query_tower)
        ensemble = Ensemble(vectors >> QueryPoeem("items.index", k=100, exclude="seen"), schema)

    It takes a batch of float32 vectors, (n, dim), and gives the ragged columns ``candidate_ids``
    (int64) and ``candidate_scores`` (float32), best first, and ``candidate_count`` (n,) int64, the
    length of each row. Rows with fewer than ``k`` are not padded. On Triton a ragged column is two
    tensors, ``candidate_ids__values`` and ``candidate_ids__offsets`` (n + 1,) int32.

    Parameters
    ----------
    index_path : str or os.PathLike
        The directory of a saved index. Exporting copies it, all of it, into the model repository.
    k : int
        Candidates wanted per row.
    n_probes : int, default None
        Lists visited per row; None takes the index's own default.
    refine : int, default None
        The best ``refine * k`` items by their codes are scored again by the vectors that the index
        holds; 0: none are. None takes the index's own default.
    exclude, allow : str, default None
        Ragged columns of integer item ids that their row must not get, or the only ones that it
        may. In a request offsets (1,), that is of no row, stand for no filter.
    k_column, n_probes_column, refine_column : str, default None
        Integer columns that choose ``k``, ``n_probes`` and ``refine``: in a request (n,), one a
        row, or (1,), the same for all rows, or (0,), those of the operator. Rows that want the same
        are searched together.
    backend : str, default "auto"
        As in :func:`~merlin_poeem.open_searcher`, chosen where the model is loaded;
        it is logged, and ``searcher.backend`` names it.
    prefix : str, default "candidate"
        What the names of the new columns begin with.

    Columns that are named here have to be in each request: the executor of Merlin Systems 23.8
    knows no optional inputs.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``index_path``.
    ValueError
        What is there is no index, damaged, or has item keys; ``k``, ``n_probes`` or ``refine`` out
        of range, or ``refine`` above 0 where the index holds no vectors.
    TypeError
        A column that is not named by a text.
    """

    def __init__(
        self,
        index_path: str | os.PathLike[str],
        k: int = 10,
        n_probes: int | None = None,
        exclude: str | None = None,
        allow: str | None = None,
        k_column: str | None = None,
        n_probes_column: str | None = None,
        backend: str = "auto",
        prefix: str = "candidate",
        refine: int | None = None,
        refine_column: str | None = None,
    ) -> None:
        super().__init__()
        self.index_path = str(Path(index_path).resolve())
        index = load_index(self.index_path)
        if index.has_item_keys:
            # Its executor casts texts to what NumPy calls str, which Triton's tensors are not.
            raise ValueError(
                "index: expected one with integer ids, as Merlin Systems 23.8 sends no texts, got "
                "one with item keys: save index.without_item_keys() for it, and join the keys of "
                "its item_table where the answers arrive"
            )
        self.fingerprint = fingerprint_of(self.index_path)
        self.dim = index.dim
        self.k = positive_int("k", k)
        n_probes = index.params.n_probes if n_probes is None else n_probes
        self.n_probes = check_n_probes(n_probes, index.n_lists)
        self.refine = None if refine is None else check_refine(index, refine)
        self.exclude = _column_name("exclude", exclude)
        self.allow = _column_name("allow", allow)
        self.k_column = _column_name("k_column", k_column)
        self.n_probes_column = _column_name("n_probes_column", n_probes_column)
        self.refine_column = _column_name("refine_column", refine_column)
        self.backend = backend
        self.prefix = prefix
        self._searcher: Searcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Nothing that is open: each process opens the index anew.
        return {**self.__dict__, "_searcher": None}

    @property
    def searcher(self) -> Searcher:
        """The index, opened on first use; its ``backend`` is the one that runs."""
        if self._searcher is None:
            self._searcher = open_saved_searcher(self.index_path, self.fingerprint, self.backend)
            logger.info("QueryPoeem: %s, backend %s", self.index_path, self._searcher.backend)
        return self._searcher

    def save_artifacts(self, artifact_path: str | os.PathLike[str] | None = None) -> None:
        """Copy the index into the exported model.

        Raises ``ValueError`` where it has been replaced since the operator was made.
        """
        if artifact_path:
            copy_index(self.index_path, self.fingerprint, self._bundled(artifact_path))

    def load_artifacts(self, artifact_path: str | os.PathLike[str] | None = None) -> None:
        """Take the index from the exported model, and open it: what is wrong shows at once.

        Without a path, as while an ensemble is put together, nothing is opened.
        """
        if artifact_path:
            self.index_path = str(self._bundled(artifact_path))
            self._searcher = None
            logger.info("QueryPoeem: ready with backend %s", self.searcher.backend)

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        """Search for every row; raises what
        :meth:`Searcher.search <merlin_poeem.Searcher.search>` promises.
        """
        name = self._vector_of(col_selector.names)
        queries = as_vectors(f"column {name!r}", transformable[name].values, self.dim)
        filters = {
            "exclude": _read_lists("exclude", transformable, self.exclude, len(queries)),
            "allow": _read_lists("allow", transformable, self.allow, len(queries)),
        }
        options = {
            "k": (self.k_column, self.k),
            "n_probes": (self.n_probes_column, self.n_probes),
            "refine": (self.refine_column, OF_INDEX if self.refine is None else self.refine),
        }
        wanted = np.stack(
            [
                _read_option(name, transformable, column, default, len(queries))
                for name, (column, default) in options.items()
            ],
            axis=1,
        )
        return TensorTable(self._columns(search_rows(self.searcher, queries, wanted, **filters)))

    @property
    def dependencies(self) -> list[str]:
        return list(self._option_columns())

    def option_schema(self) -> Schema:
        """The columns beside the vectors, as a request has them."""
        return Schema(
            [
                ColumnSchema(name, dtype=np.int64, dims=(None, None) if is_list else (None,))
                for name, is_list in self._option_columns().items()
            ]
        )

    def column_mapping(self, col_selector: ColumnSelector) -> dict[str, list[str]]:
        inputs = [self._vector_of(col_selector.names), *self.dependencies]
        return {output: inputs for output in self._output_names()}

    def compute_output_schema(
        self,
        input_schema: Schema,
        col_selector: ColumnSelector,
        prev_output_schema: Schema | None = None,
    ) -> Schema:
        ids, scores, count = self._output_names()
        # As many as a request asks for, where it may.
        lists = (None, (0, None if self.k_column else self.k))
        return Schema(
            [
                ColumnSchema(ids, dtype=np.int64, dims=lists, tags=[Tags.LIST]),
                ColumnSchema(scores, dtype=np.float32, dims=lists, tags=[Tags.LIST]),
                ColumnSchema(count, dtype=np.int64, dims=(None,)),
            ]
        )

    def validate_schemas(
        self,
        parents_schema: Schema,
        deps_schema: Schema,
        input_schema: Schema,
        output_schema: Schema,
        strict_dtypes: bool = False,
    ) -> None:
        """Raises ``ValueError`` naming the column whose dtype or dims are not those wanted."""
        vector = input_schema[self._vector_of(input_schema.column_names)]
        dims = vector.shape.as_tuple if vector.shape.dims else ()
        if str(vector.dtype.name) != "float32" or dims[1:] != (self.dim,):
            raise ValueError(
                f"column {vector.name!r}: expected float32 with dims (n, {self.dim}), as the index "
                f"has, got {vector.dtype.name} with {dims}"
            )
        for name, is_list in self._option_columns().items():
            column = input_schema[name]
            if not column.dtype.is_integer or column.is_ragged != is_list:
                raise ValueError(
                    f"column {name!r}: expected {'ragged lists of ' if is_list else ''}integers, "
                    f"got {column.dtype.name} {'lists' if column.is_list else 'numbers'}"
                )

    @property
    def supported_formats(self) -> DataFormats:
        # Requests come to Triton's Python backend on the host.
        return DataFormats.NUMPY_TENSOR_TABLE

    def _bundled(self, artifact_path: str | os.PathLike[str]) -> Path:
        return Path(artifact_path).resolve() / f"index-{self.fingerprint}"

    def _option_columns(self) -> dict[str, bool]:
        """The columns beside the vectors, and whether they hold lists."""
        columns = {self.exclude: True, self.allow: True}
        columns |= dict.fromkeys((self.k_column, self.n_probes_column, self.refine_column), False)
        return {name: is_list for name, is_list in columns.items() if name is not None}

    def _vector_of(self, names: list[str]) -> str:
        vectors = [name for name in names if name not in self._option_columns()]
        if len(vectors) != 1:
            raise ValueError(f"columns: expected one of query vectors, got {vectors}")
        return vectors[0]

    def _output_names(self) -> tuple[str, str, str]:
        return f"{self.prefix}_ids", f"{self.prefix}_scores", f"{self.prefix}_count"

    def _columns(self, found: Candidates) -> dict[str, Any]:
        if len(found.scores) > MOST_CANDIDATES:
            raise ValueError(
                f"candidates: expected at most {MOST_CANDIDATES} in a request, "
                f"got {len(found.scores)}: send fewer rows at a time"
            )
        ids, scores, count = self._output_names()
        offsets = found.offsets.astype(np.int32)
        return {
            ids: (found.item_ids, offsets),
            scores: (found.scores, offsets),
            count: found.counts,
        }


def _column_name(option: str, name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{option}: expected the name of a request's column, got {type_name(name)}")
    return name


def _read_lists(
    option: str, table: TensorTable, name: str | None, n_queries: int
) -> IdLists | None:
    """The id lists of the column ``name``; None where there is none, or it holds no row."""
    if name is None:
        return None
    column = table[name]
    if column.offsets is None:
        raise ValueError(f"{option}: expected {name}__values and {name}__offsets, got no offsets")
    if len(column) == 0:
        return None
    values = as_item_ids(f"column {name!r}", column.values)
    return IdLists.of(option, IdLists(column.offsets, values), n_queries)


def _read_option(
    option: str, table: TensorTable, name: str | None, default: int, n_queries: int
) -> Int64:
    """(n_queries,) int64: what each row wants."""
    given: NDArray[Any] = np.empty(0, np.int64) if name is None else table[name].values.ravel()
    if given.dtype.kind not in "iu":
        raise TypeError(f"{option}: expected an integer a row, got {given.dtype}")
    if not len(given):
        return np.full(n_queries, default, np.int64)
    if len(given) not in (1, n_queries):
        raise ValueError(
            f"{option}: expected {n_queries} values, one a row, or one for all, got {len(given)}"
        )
    return np.broadcast_to(as_item_ids(option, given), n_queries)
