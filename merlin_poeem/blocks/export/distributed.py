"""From a saved model to codes over Dask: each worker process loads the item tower once.

What travels to a worker is the model's path and the fingerprint of its files; what comes back are
codes, and vectors as an index stores them where that is asked for. What the item tower makes in
float32 never leaves the worker that computed it.
"""

from __future__ import annotations

import os
import threading
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import Tags

from merlin_poeem.blocks.export.export import (
    EncodedItems,
    check_item_scales,
    checked_info,
    encode,
    index_of,
    with_integers,
)
from merlin_poeem.blocks.export.tower_rows import check_columns, tagged_column
from merlin_poeem.blocks.model.towers import Towers
from merlin_poeem.distributed.checks import meta_of
from merlin_poeem.distributed.encode import codes_frame, item_codes_of, vectors_of
from merlin_poeem.index.index import Index, origin_of
from merlin_poeem.quantization.item_codes import ItemCodes
from merlin_poeem.quantization.params import IVFPQParams, positive_int
from merlin_poeem.quantization.stored_vectors import (
    StoredVectors,
    VectorDtype,
    check_vector_dtype,
)

EXACT_SCALE = "exact_scale"

_lock = threading.Lock()


def encode_items_ddf(
    model_path: str | os.PathLike[str],
    items: Any,
    *,
    batch_size: int = 4096,
    id_column: str | None = None,
) -> Any:
    """The codes of ``items`` as a Dask frame, each partition encoded on a worker.

    Columns as of :func:`~merlin_poeem.distributed.encode_ddf`, without scales. Of rows of one
    partition that repeat an id, the first counts; ids that several partitions have are in the
    result as often. Nothing is computed yet. Threads of one worker take turns, as the model is one.

    Parameters
    ----------
    model_path
        A two-tower model saved by ``model.save``, in a place that every worker sees.
    items
        A Merlin dataset or a Dask frame with pandas partitions and the item tower's columns.
    batch_size, id_column
        As of :func:`~merlin_poeem.blocks.encode_items`.

    Raises
    ------
    TypeError
        Neither a Dask frame nor a dataset.
    ValueError
        Columns missing (named), null ids, or a model that was replaced since, when it is computed.
    OSError
        No saved model.
    """
    codes = _encode(_Saved.at(model_path), items, batch_size, id_column)
    return codes.drop(columns=EXACT_SCALE)


def export_index_ddf(
    model_path: str | os.PathLike[str],
    items: Any,
    *,
    n_probes: int | None = None,
    item_scales: bool = True,
    store_vectors: VectorDtype | None = None,
    batch_size: int = 4096,
    id_column: str | None = None,
    item_table: pd.DataFrame | None = None,
    info: dict[str, Any] | None = None,
) -> Index:
    """:func:`~merlin_poeem.blocks.export_index`, encoded over Dask and grouped here.

    The same index, whatever the partitions: of rows that repeat an id, the first counts. This
    process holds the codes of all items and a number more an item, its exact scale, as the range
    of scales is known only once all are; and no vectors, save for those that ``store_vectors`` asks
    for, as they are stored. Parameters and errors as of
    :func:`encode_items_ddf` and ``export_index``.
    """
    info = checked_info(info)
    saved = _Saved.at(model_path)
    check_item_scales(Towers.of(_open(saved)), item_scales=item_scales)
    codes = _encode(saved, items, batch_size, id_column, store_vectors).compute()
    if not len(codes):
        raise ValueError("items: expected at least one row, got none")
    codes = codes.drop_duplicates("item_id")
    towers = Towers.of(_open(saved))
    origin = origin_of(towers.quantizer.params, towers.quantizer.quantization())
    vectors = None if store_vectors is None else vectors_of(codes, origin)
    return index_of(
        towers,
        EncodedItems(item_codes_of(codes), codes[EXACT_SCALE].to_numpy(), vectors),
        item_scales=item_scales,
        n_probes=n_probes,
        item_table=item_table,
        info=info,
    )


@dataclass(frozen=True)
class _Saved:
    """Where a model is saved, and which one it has to be."""

    path: str
    fingerprint: str

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> _Saved:
        path = Path(path).resolve()
        return cls(str(path), _fingerprint_of(path))


def _encode(
    saved: _Saved,
    items: Any,
    batch_size: int,
    id_column: str | None,
    store_vectors: VectorDtype | None = None,
) -> Any:
    if store_vectors is not None:
        check_vector_dtype(store_vectors)
    ddf = items.to_ddf() if isinstance(items, Dataset) else items
    meta, batch_size = meta_of(ddf), positive_int("batch_size", batch_size)
    towers = Towers.of(_open(saved))
    schema = towers.item.schema
    id_column = id_column or tagged_column(schema, Tags.ITEM_ID)
    check_columns(meta, [*schema.column_names, id_column])
    quantizer = towers.quantizer
    kept = _Kept(quantizer.params, quantizer.coarse_centroids.shape[1], store_vectors)
    return ddf.map_partitions(
        _encode_partition, saved, batch_size, id_column, kept, meta=_frame_of(kept.of_no_items())
    ).clear_divisions()


@dataclass(frozen=True)
class _Kept:
    """What is kept of an item."""

    params: IVFPQParams
    dim: int
    store_vectors: VectorDtype | None

    def of_no_items(self) -> EncodedItems:
        # As the quantizer trains 4 or 8 bits a code.
        codes = np.empty((0, self.params.pq_dim), np.uint8)
        none = ItemCodes(np.empty(0, np.int64), np.empty(0, np.int32), codes)
        vectors = None
        if self.store_vectors is not None:
            values = np.empty((0, self.dim), self.store_vectors)
            vectors = StoredVectors(values, np.empty(0, np.float32))
        return EncodedItems(none, np.empty(0), vectors)


def _encode_partition(
    frame: pd.DataFrame,
    saved: _Saved,
    batch_size: int,
    id_column: str,
    kept: _Kept,
) -> pd.DataFrame:
    if not len(frame):
        return _frame_of(kept.of_no_items())
    model = _open(saved)
    # One at a time: while it encodes, the quantizer passes float vectors through.
    with _lock:
        encoded = encode(Towers.of(model), frame, batch_size, id_column, kept.store_vectors)
    encoded = with_integers(encoded)
    return _frame_of(encoded)


def _frame_of(encoded: EncodedItems) -> pd.DataFrame:
    frame = codes_frame(encoded.item_codes, encoded.vectors)
    return frame.assign(**{EXACT_SCALE: encoded.scales})


def _open(saved: _Saved) -> tf.keras.Model:
    """The saved model, loaded once a process; ``ValueError`` where it is another."""
    with _lock:
        return _model(saved)


@lru_cache(maxsize=1)
def _model(saved: _Saved) -> tf.keras.Model:
    _check_fingerprint(saved)
    model = tf.keras.models.load_model(saved.path)
    _check_fingerprint(saved)  # it may have been replaced meanwhile
    return model


def _check_fingerprint(saved: _Saved) -> None:
    found = _fingerprint_of(Path(saved.path))
    if found != saved.fingerprint:
        raise ValueError(
            f"{saved.path}: expected the model with fingerprint {saved.fingerprint}, got {found}: "
            "it was replaced since; start anew with the one that is there"
        )


def _fingerprint_of(path: Path) -> str:
    """Of the graph, and of the index of the variables, which has a checksum of each."""
    crc32 = 0
    for name in ("saved_model.pb", "variables/variables.index"):
        crc32 = zlib.crc32((path / name).read_bytes(), crc32)
    return f"{crc32:08x}"
