"""Ready-made vectors: a frame of ids and vectors, from whatever model, becomes an Index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64, check_unique, check_values, largest_value
from merlin_poeem.frames.columns import read_arrow, read_ids, read_vectors
from merlin_poeem.frames.list_writer import matrix_column
from merlin_poeem.index.index import Index
from merlin_poeem.index.item_table import check_column_names, check_item_table, nullable_dtype
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.params import IVFPQParams, Metric
from merlin_poeem.quantization.stored_vectors import VectorDtype, check_vector_dtype
from merlin_poeem.quantization.suggested_params import suggest_params

if TYPE_CHECKING:
    import pandas as pd

TRAINING_ROWS_PER_CENTROID = 64


def index_frame(
    frame: Any,
    params: IVFPQParams | None = None,
    *,
    item_id: str = "id",
    vectors: str = "features",
    item_table: Sequence[str] | None = None,
    metric: Metric | None = None,
    rotation: bool = False,
    seed: int = 0,
    store_vectors: VectorDtype | None = None,
    info: Mapping[str, Any] | None = None,
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
        Column of integers, each once; they are the int64 ids that a search returns.
    vectors
        Column of JSON strings or lists, as of :func:`~merlin_poeem.frames.columns.read_vectors`.
    item_table
        Columns stored with the index, such as titles, for
        :func:`~merlin_poeem.with_items`; None stores nothing.
    rotation
        Whether to find an OPQ rotation first: better where dimensions are correlated, many times
        slower.
    seed
        Of the rows to train on, 64 per list or codeword, and of what is drawn from them.
    store_vectors
        As of :meth:`Index.from_vectors <merlin_poeem.Index.from_vectors>`.
    info
        JSON values stored with the index.

    Raises
    ------
    TypeError
        Not a frame, ids that are no integers, or vectors that are neither strings nor lists.
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
    item_ids = read_ids(frame, item_id)
    check_unique(f"column {item_id!r}", item_ids)
    matrix = read_vectors(frame, vectors)
    table = None if item_table is None else _item_table(frame, item_ids, item_table)
    if params is None:
        n_items, dim = matrix.shape
        params = suggest_params(n_items, dim, metric=metric or "inner_product")
    # Here, as the rows of a sample have other numbers.
    check_values(f"column {vectors!r}", matrix, largest_value(params.metric))
    quantization = fit(params, _sample(matrix, params, seed), rotation=rotation, seed=seed)
    return Index.from_vectors(
        params,
        quantization,
        item_ids,
        matrix,
        store_vectors=store_vectors,
        item_table=table,
        info=info,
    )


def with_vectors(frame: Any, column: str = "features", into: str | None = None) -> Any:
    """``frame`` with the vectors of ``column`` as a float32 list column ``into``, parsed once.

    ``into`` None replaces ``column``. A frame of the same kind comes back, pandas or cuDF; the one
    given stays as it is. Raises as :func:`~merlin_poeem.frames.columns.read_vectors`.
    """
    return frame.assign(**{into or column: matrix_column(frame, read_vectors(frame, column))})


def _sample(vectors: Float32, params: IVFPQParams, seed: int) -> Float32:
    n_rows = TRAINING_ROWS_PER_CENTROID * max(params.n_lists, params.pq_book_size)
    if len(vectors) <= n_rows:
        return vectors
    rows = np.random.default_rng(seed).choice(len(vectors), n_rows, replace=False)
    return vectors[np.sort(rows)]


def _item_table(frame: Any, item_ids: Int64, columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd  # here, because importing it takes longer than all else together

    if isinstance(columns, str):
        raise TypeError(f"item_table: expected a sequence of column names, got {columns!r}")
    if "item_id" in columns:
        raise ValueError("item_table: expected columns beside the ids, got item_id")
    check_column_names(columns)
    kept = {name: _to_pandas(read_arrow(frame, name)) for name in columns}
    return check_item_table(pd.DataFrame({"item_id": item_ids, **kept}))  # before the training


def _to_pandas(array: Any) -> Any:
    """An Arrow array as a column; integers among nulls stay integers, not floats that round."""
    import pyarrow as pa

    has_null_dtype = pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)
    if not (array.null_count and has_null_dtype):
        return array.to_pandas()
    dtype = np.dtype(array.type.to_pandas_dtype())
    return array.to_pandas(types_mapper=lambda _: nullable_dtype(dtype))
