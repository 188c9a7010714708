"""Ready-made vectors: a frame of ids and vectors, from whatever model, becomes an Index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64, check_unique, check_values, largest_value
from merlin_poeem.frames.columns import (
    is_text,
    read_arrow,
    read_ids,
    read_texts,
    read_vectors,
)
from merlin_poeem.frames.list_writer import matrix_column
from merlin_poeem.index.index import Index
from merlin_poeem.index.item_keys import Keys, as_keys, check_unique_keys
from merlin_poeem.index.item_table import check_column_names, check_item_table, nullable_dtype
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.params import IVFPQParams, Metric
from merlin_poeem.quantization.stored_vectors import VectorDtype, check_vector_dtype
from merlin_poeem.quantization.stretch import STRETCH
from merlin_poeem.quantization.suggested_params import suggest_params

if TYPE_CHECKING:
    import pandas as pd

TRAINING_ROWS_PER_CENTROID = 64


def index_frame(
    frame: Any,
    params: IVFPQParams | None = None,
    *,
    item_id: str = "item_id",
    vectors: str = "embedding",
    item_table: Sequence[str] | None = None,
    metric: Metric | None = None,
    queries: Any = None,
    stretch: float = STRETCH,
    rotation: bool = False,
    seed: int = 0,
    store_vectors: VectorDtype | None = None,
    info: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Index:
    """Train a quantization on the vectors of ``frame`` and encode them: a row becomes an item.

    Parameters
    ----------
    frame
        pandas or cuDF; a cuDF frame's columns are copied to the host.
    params
        None takes :func:`~merlin_poeem.suggest_params` of what the frame holds, with ``metric``
        (inner product where that is None too).
    item_id
        Column of integers or of texts, each once; they are the ids that a search returns. Texts
        become the index's ``item_keys``.
    vectors
        Column of JSON strings or lists, as of :func:`~merlin_poeem.frames.columns.read_vectors`.
    item_table
        Columns stored with the index, such as titles, for
        :func:`~merlin_poeem.with_items`; None stores nothing.
    queries
        As of :func:`~merlin_poeem.fit`; or a frame of them, pandas or cuDF, with the same column
        ``vectors``.
    stretch
        How far the queries count, as of :func:`~merlin_poeem.fit`.
    rotation
        Whether to find an OPQ rotation first: better where dimensions are correlated, many times
        slower.
    seed
        Of the rows to train on, 64 per list or codeword, and of what is drawn from them.
    store_vectors
        As of :meth:`Index.from_vectors <merlin_poeem.Index.from_vectors>`.
    info
        JSON values stored with the index.
    progress
        Whether work of more than two seconds shows a bar on stderr.

    Raises
    ------
    TypeError
        Not a frame, ids that are no integers and no texts, or vectors that are neither strings nor
        lists.
    ValueError
        A missing column, no rows, a null, a repeated id, a vector that ``read_vectors`` refuses
        or, unless the metric is cosine, one with a value above 1e15 in size (naming the first such
        row), a column that ``item_table`` names twice, both ``params`` and ``metric``, or what
        :func:`~merlin_poeem.fit` refuses.
    ImportError
        faiss-cpu is not installed.
    """
    if params is not None and metric is not None:
        raise ValueError(f"metric: expected None beside params, got {metric!r}")
    if store_vectors is not None:
        check_vector_dtype(store_vectors)  # before the training
    item_ids = _read_each_once(frame, item_id)
    matrix = read_vectors(frame, vectors)
    table = None if item_table is None else table_of_columns(frame, item_ids, item_table)
    if params is None:
        n_items, dim = matrix.shape
        params = suggest_params(n_items, dim, metric=metric or "inner_product")
    # Here, as the rows of a sample have other numbers.
    check_values(f"column {vectors!r}", matrix, largest_value(params.metric))
    quantization = fit(
        params,
        _sample(matrix, params, seed),
        queries=_as_matrix(queries, vectors),
        stretch=stretch,
        rotation=rotation,
        seed=seed,
        progress=progress,
    )
    return Index.from_vectors(
        params,
        quantization,
        item_ids,
        matrix,
        store_vectors=store_vectors,
        item_table=table,
        info=info,
        progress=progress,
    )


def with_vectors(frame: Any, column: str = "embedding", into: str | None = None) -> Any:
    """``frame`` with the vectors of ``column`` as a float32 list column ``into``, parsed once.

    ``into`` None replaces ``column``. A frame of the same kind comes back, pandas or cuDF; the one
    given stays as it is. Raises as :func:`~merlin_poeem.frames.columns.read_vectors`.
    """
    return frame.assign(**{into or column: matrix_column(frame, read_vectors(frame, column))})


def _as_matrix(queries: Any, vectors: str) -> Any:
    """The column ``vectors`` of a frame of queries; what is no frame as it is.

    ``ValueError`` where a frame has no such column: by ``queries``, as there is a frame of items.
    """
    if not hasattr(queries, "columns"):
        return queries
    if vectors not in queries.columns:
        raise ValueError(
            f"queries: expected a column {vectors!r}, as the items have; got {[*queries.columns]}"
        )
    return read_vectors(queries, vectors)


def _sample(vectors: Float32, params: IVFPQParams, seed: int) -> Float32:
    n_rows = TRAINING_ROWS_PER_CENTROID * max(params.n_lists, params.pq_book_size)
    if len(vectors) <= n_rows:
        return vectors
    rows = np.random.default_rng(seed).choice(len(vectors), n_rows, replace=False)
    return vectors[np.sort(rows)]


def table_of_columns(frame: Any, item_ids: Int64 | Keys, columns: Sequence[str]) -> pd.DataFrame:
    """The ``columns`` of a frame as the table of its rows' ``item_ids`` (n,), integers or keys.

    Raises ``TypeError`` or ``ValueError`` on columns that are missing, that no index could save, or
    that are named ``item_id`` or twice.
    """
    import pandas as pd  # here, because importing it takes longer than all else together

    if isinstance(columns, str):
        raise TypeError(f"item_table: expected a sequence of column names, got {columns!r}")
    if "item_id" in columns:
        raise ValueError("item_table: expected columns beside the ids, got item_id")
    check_column_names(columns)
    kept = {name: _to_pandas(read_arrow(frame, name)) for name in columns}
    numbers = item_ids if item_ids.dtype.kind == "i" else np.arange(len(item_ids))
    table = check_item_table(pd.DataFrame({"item_id": numbers, **kept}))
    return table if numbers is item_ids else table.assign(item_id=item_ids)


def _read_each_once(frame: Any, name: str) -> Int64 | Keys:
    """A column of ids, integers or texts, each once."""
    if is_text(read_arrow(frame, name).type):
        keys = as_keys(f"column {name!r}", read_texts(frame, name))
        check_unique_keys(f"column {name!r}", keys)
        return keys
    item_ids = read_ids(frame, name)
    check_unique(f"column {name!r}", item_ids)
    return item_ids


def _to_pandas(array: Any) -> Any:
    """An Arrow array as a column; integers among nulls stay integers, not floats that round."""
    import pyarrow as pa

    has_null_dtype = pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)
    if not (array.null_count and has_null_dtype):
        return array.to_pandas()
    dtype = np.dtype(array.type.to_pandas_dtype())
    return array.to_pandas(types_mapper=lambda _: nullable_dtype(dtype))
