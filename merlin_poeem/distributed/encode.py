"""Item vectors of a Dask frame into codes, on the workers.

What is gathered are codes, and vectors as an index stores them where that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import numpy as np
import pandas as pd

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.distributed.checks import meta_of
from merlin_poeem.frames.columns import column_of, columns_of_vectors, read_ids, read_vectors
from merlin_poeem.index.index import (
    Index,
    check_agreement,
    encode_items,
    origin_of,
    stored_vectors,
)
from merlin_poeem.quantization.fit import MAX_POINTS_PER_CENTROID, fit
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.quantization.stored_vectors import (
    StoredVectors,
    VectorDtype,
    check_vector_dtype,
)
from merlin_poeem.quantization.stretch import STRETCH

SCALE = "scale"
VECTOR_SCALE = "scale_of_vector"

Vectors = str | Sequence[str]


def encode_ddf(
    ddf: Any,
    params: IVFPQParams,
    quantization: Quantization,
    *,
    item_id: str = "item_id",
    vectors: Vectors = "embedding",
    store_vectors: VectorDtype | None = None,
) -> Any:
    """The codes of every item as a Dask frame of pandas partitions, encoded where the vectors are.

    Columns ``item_id`` int64, ``list_id`` int32, ``code_0`` to ``code_<pq_dim − 1>`` (uint8, or
    uint16 above 8 bits) and, where the quantization has scales, ``scale`` (uint8). With
    ``store_vectors`` there are ``vector_0`` to ``vector_<dim − 1>`` of that dtype and
    ``scale_of_vector`` (float32), the items' vectors as an index stores them. Nothing is computed
    yet. An id that repeats in one partition is an error then; one that several partitions
    have is not looked for.

    Parameters
    ----------
    ddf
        A Dask frame, a row an item.
    item_id
        The column of integer ids.
    vectors
        As of :func:`~merlin_poeem.search_frame`, in the raw space.
    store_vectors
        As of :meth:`Index.from_vectors <merlin_poeem.Index.from_vectors>`.

    Raises
    ------
    TypeError
        No Dask frame, or columns of another dtype; of ids and lists, when it is computed.
    ValueError
        A column missing (named), ``params`` of another quantization; when it is computed, vectors
        that are null, ragged, not finite or not ``dim`` wide.
    """
    meta = meta_of(ddf, [vectors] if isinstance(vectors, str) else [])
    encode = _Encoder(params, quantization, item_id, vectors, store_vectors)
    # As one task, which the others depend on: a quantization may have megabytes.
    shared = dask.delayed(encode, traverse=False)
    return ddf.map_partitions(_encode, shared, meta=encode(meta)).clear_divisions()


def index_ddf(
    ddf: Any,
    params: IVFPQParams,
    quantization: Quantization,
    *,
    item_id: str = "item_id",
    vectors: Vectors = "embedding",
    store_vectors: VectorDtype | None = None,
    info: dict[str, Any] | None = None,
) -> Index:
    """The index of the items of ``ddf``: encoded on the workers, grouped here.

    Equal to ``Index.from_vectors`` of all vectors at once, save that an item between two codewords
    to within float32's rounding may get the other one, as products of matrices round differently
    with their number of rows.

    This process holds the codes of all items and copies that grouping them takes, about
    ``4 * (12 + pq_dim)`` bytes an item at 8 bits a code; with ``store_vectors`` the vectors as they
    are stored and copies of those; and never a vector in float32.

    Parameters and errors as of :func:`encode_ddf`, all raised here, and ``ValueError`` naming ids
    that occur more than once, in one partition or in several.
    """
    codes = encode_ddf(
        ddf, params, quantization, item_id=item_id, vectors=vectors, store_vectors=store_vectors
    ).compute()
    kept = None
    if store_vectors is not None:
        kept = vectors_of(codes, origin_of(params, quantization))
    return Index.from_codes(params, quantization, item_codes_of(codes), vectors=kept, info=info)


def fit_ddf(
    params: IVFPQParams,
    ddf: Any,
    *,
    vectors: Vectors = "embedding",
    queries: Any = None,
    stretch: float = STRETCH,
    rotation: bool = True,
    item_scales: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Quantization:
    """:func:`~merlin_poeem.fit` of the vectors of ``ddf``, trained here on a sample of them.

    The sample, and so the quantization, is the one that ``fit`` takes of all vectors at once,
    whatever the partitions: at most ``256 * max(n_lists, 2 ** pq_bits)`` rows, all that is
    gathered. ``queries``, an array in this process, and ``stretch`` are as of ``fit``. ``ddf`` is
    read twice, first for its partitions' lengths; ``ddf.persist()`` saves the second reading.
    ``progress`` is of the training here, as of ``fit``. Errors as of ``fit`` and
    :func:`encode_ddf`.
    """
    meta = meta_of(ddf, [vectors] if isinstance(vectors, str) else [])
    for name in columns_of_vectors(vectors):
        column_of(meta, name)
    parts = ddf.to_delayed()
    lengths = np.array(dask.compute(*map(dask.delayed(len), parts)), np.int64)
    rows = _sampled_rows(params, int(lengths.sum()), seed)
    ends = np.cumsum(lengths)
    samples = []
    for part, start, end in zip(parts, ends - lengths, ends, strict=True):
        chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
        if len(chosen):
            samples.append(dask.delayed(_rows_of)(part, vectors, chosen))
    if not samples:
        raise ValueError("ddf: expected at least one row, got none")
    gathered = _stack(vectors, dask.compute(*samples))
    return fit(
        params,
        gathered,
        queries=queries,
        stretch=stretch,
        rotation=rotation,
        item_scales=item_scales,
        seed=seed,
        progress=progress,
    )


def codes_frame(item_codes: ItemCodes, vectors: StoredVectors | None = None) -> pd.DataFrame:
    """``item_codes`` and ``vectors`` as the columns that :func:`encode_ddf` tells of."""
    codes = {f"code_{j}": item_codes.codes[:, j] for j in range(item_codes.codes.shape[1])}
    scales = {} if item_codes.scales is None else {SCALE: item_codes.scales}
    ids = {"item_id": item_codes.item_ids, "list_id": item_codes.list_ids}
    stored: dict[str, Any] = {}
    if vectors is not None:
        stored = {f"vector_{j}": vectors.values[:, j] for j in range(vectors.values.shape[1])}
        stored[VECTOR_SCALE] = vectors.scales
    return pd.DataFrame({**ids, **codes, **scales, **stored})


def item_codes_of(frame: pd.DataFrame) -> ItemCodes:
    """The inverse of :func:`codes_frame`; ``ValueError`` naming ids that repeat."""
    scales = frame[SCALE].to_numpy() if SCALE in frame else None
    codes = frame[[name for name in frame if name.startswith("code_")]].to_numpy()
    return ItemCodes(frame["item_id"].to_numpy(), frame["list_id"].to_numpy(), codes, scales)


def vectors_of(frame: pd.DataFrame, origin: Float32 | None) -> StoredVectors:
    """The vectors of :func:`codes_frame`, which count from ``origin``."""
    values = frame[[name for name in frame if name.startswith("vector_")]].to_numpy()
    return StoredVectors(np.ascontiguousarray(values), frame[VECTOR_SCALE].to_numpy(), origin)


class _Encoder:
    """Encodes one partition; on a frame without rows, it gives the columns and their dtypes."""

    def __init__(
        self,
        params: IVFPQParams,
        quantization: Quantization,
        item_id: str,
        vectors: Vectors,
        store_vectors: VectorDtype | None,
    ) -> None:
        check_agreement(params, quantization)
        if store_vectors is not None:
            check_vector_dtype(store_vectors)
        self._params, self._quantization = params, quantization
        self._item_id, self._vectors = item_id, vectors
        self._store_vectors = store_vectors

    def __call__(self, frame: Any) -> pd.DataFrame:
        item_ids = read_ids(frame, self._item_id)
        vectors = read_vectors(frame, self._vectors, dim=self._quantization.dim)
        item_codes = encode_items(self._params, self._quantization, item_ids, vectors)
        kept = None
        if self._store_vectors is not None:
            of = self._params, self._quantization
            kept = stored_vectors(*of, vectors, self._store_vectors)
        return codes_frame(item_codes, kept)


def _encode(frame: Any, encoder: _Encoder) -> pd.DataFrame:
    return encoder(frame)


def _sampled_rows(params: IVFPQParams, n: int, seed: int) -> Int64:
    """The numbers of the rows that ``fit`` would draw from ``n``, rising."""
    most = MAX_POINTS_PER_CENTROID * max(params.n_lists, params.pq_book_size)
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _rows_of(frame: Any, vectors: Vectors, rows: Int64) -> Float32:
    """(len(rows), dim) vectors of these rows of one partition."""
    return read_vectors(frame.iloc[rows], vectors)


def _stack(vectors: Vectors, samples: Sequence[Float32]) -> Float32:
    widths = [sample.shape[1] for sample in samples]
    other = next((width for width in widths if width != widths[0]), None)
    if other is not None:
        raise ValueError(
            f"column {vectors!r}: expected {widths[0]} values a row in every partition, as in the "
            f"first; got {other}"
        )
    return np.concatenate(samples)
