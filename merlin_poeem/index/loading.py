"""Load a saved Index: small arrays are read, large ones mapped and checked when first used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import (
    Index,
    LoadOptionalArray,
    LoadVectors,
    check_agreement,
    no_list_lengths,
    origin_of,
)
from merlin_poeem.index.item_table import from_parquet
from merlin_poeem.index.list_lengths import tell_of_lists
from merlin_poeem.index.stored_files import (
    FLAT,
    ITEM_TABLE,
    TABLE_NAME,
    IndexFormatError,
    StoredArray,
    StoredFile,
    get_checked,
    read_header,
)
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import METRICS, IVFPQParams
from merlin_poeem.quantization.stored_vectors import StoredVectors

if TYPE_CHECKING:
    import pandas as pd


Opened = TypeVar("Opened")
FLAT_TYPES = ("<f4", "<f2", "|i1")


def load_index(path: str | os.PathLike[str]) -> Index:
    """Open the index saved in the directory ``path``.

    Reads the header, centroids, codebook, rotation, and the offsets and lengths of lists. Item ids,
    codes, scales, vectors and item table are mapped, and read on first use; a damaged one is an
    ``IndexFormatError`` then. Format version 1 had no scales and no list lengths: such an index
    answers as it did.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``path``.
    IndexFormatError
        What is there is no index, of a newer version, or damaged; or a flat one.
    """
    return _opened(path, _open)


def load_flat_index(path: str | os.PathLike[str]) -> FlatIndex:
    """Open the flat index saved in the directory ``path``: its arrays are mapped, and read once.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``path``.
    IndexFormatError
        What is there is no flat index, of a newer version, or damaged.
    """
    return _opened(path, _open_flat)


def _opened(
    path: str | os.PathLike[str], open_: Callable[[Path, dict[str, Any]], Opened]
) -> Opened:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no index there")
    header = read_header(path)
    while True:
        try:
            return open_(path, header)
        except IndexFormatError:
            # A save that ended between the two reads has deleted the files of the header we hold.
            newest = read_header(path)
            if newest == header:
                raise
            header = newest


def _open_flat(path: Path, header: dict[str, Any]) -> FlatIndex:
    if header.get("kind") != FLAT:
        raise IndexFormatError(f"{path}: expected a flat index, got another: use load_index")
    metric = get_checked(path, header, "metric", str)
    if metric not in METRICS:
        raise IndexFormatError(f"{path}: malformed header: metric {metric!r:.80}")
    dim, n_items = get_checked(path, header, "dim", int), get_checked(path, header, "n_items", int)
    entries = get_checked(path, header, "arrays", dict)

    def read(name: str, dtype: str, *shape: int) -> Any:
        return StoredArray.map(path, entries, name, dtype, shape).read()

    item_ids = read("item_ids", "<i8", n_items)
    if not (item_ids[1:] > item_ids[:-1]).all():
        raise IndexFormatError(f"{path}: malformed: ids do not rise")
    stored = get_checked(path, entries, "vectors", dict)
    dtype = stored.get("dtype") if stored.get("dtype") in FLAT_TYPES else "<f4"
    has_scales = dtype != "<f4"
    if has_scales != ("vector_scales" in entries) or (metric == "l2") != (
        "vector_origin" in entries
    ):
        raise IndexFormatError(f"{path}: malformed header: scales or origin of vectors")
    try:
        vectors = StoredVectors(
            read("vectors", dtype, n_items, dim),
            read("vector_scales", "<f4", n_items) if has_scales else None,
            read("vector_origin", "<f4", dim) if metric == "l2" else None,
        )
    except IndexFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise IndexFormatError(f"{path}: malformed: {error}") from error
    _check_finite(path, vectors)
    table = _table_loader(path, header)()
    return FlatIndex(metric, item_ids, vectors, table, get_checked(path, header, "info", dict))


def _open(path: Path, header: dict[str, Any]) -> Index:
    if header.get("kind") == FLAT:
        raise IndexFormatError(
            f"{path}: expected lists and codes, got a flat index: use load_flat_index"
        )
    try:
        params = IVFPQParams.from_dict(get_checked(path, header, "params", dict))
    except (TypeError, ValueError) as error:
        raise IndexFormatError(f"{path}: malformed header: {error}") from error
    dim, n_items = get_checked(path, header, "dim", int), get_checked(path, header, "n_items", int)
    entries = get_checked(path, header, "arrays", dict)

    def array(name: str, dtype: str, *shape: int) -> StoredArray:
        return StoredArray.map(path, entries, name, dtype, shape)

    def optional(name: str, *shape: int) -> Float32 | None:
        return array(name, "<f4", *shape).read_into_memory() if name in entries else None

    try:
        pq_len = params.pq_len(dim)
        quantization = Quantization(
            array("coarse_centroids", "<f4", params.n_lists, dim).read_into_memory(),
            array("codebook", "<f4", params.pq_dim, params.pq_book_size, pq_len).read_into_memory(),
            optional("rotation", dim, dim),
            get_checked(path, header, "encodes_residual", bool),
            optional("scale_range", 2),
            optional("query_rotation", dim, dim),
        )
        check_agreement(params, quantization)
    except IndexFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise IndexFormatError(f"{path}: malformed: {error}") from error
    list_offsets = array("list_offsets", "<i8", params.n_lists + 1).read_into_memory()
    _check_offsets(path, list_offsets, n_items)
    item_ids = array("item_ids", "<i8", n_items)
    codes = array("codes", *_packed_layout(quantization, n_items))
    if quantization.has_scales != ("scales" in entries):
        raise IndexFormatError(f"{path}: malformed header: only one of scale_range and scales")
    scales = array("scales", "|u1", n_items) if quantization.has_scales else None
    return Index(
        params,
        quantization,
        list_offsets,
        lambda: _read_item_ids(item_ids, list_offsets),
        lambda: _read_codes(codes, params),
        lambda: None if scales is None else scales.read(),
        _list_lengths_loader(path, header, params, quantization, array),
        _table_loader(path, header),
        get_checked(path, header, "info", dict),
        _vectors_loader(path, entries, params, quantization, n_items),
    )


def _packed_layout(quantization: Quantization, n_items: int) -> tuple[Any, ...]:
    """dtype and shape of the codes as ``pack_codes`` stores them."""
    if quantization.pq_bits == 4:
        return "|u1", n_items, (quantization.pq_dim + 1) // 2
    return quantization.code_dtype.newbyteorder("<").str, n_items, quantization.pq_dim


def _check_offsets(path: Path, list_offsets: Int64, n_items: int) -> None:
    rises = list_offsets[0] == 0 and list_offsets[-1] == n_items
    if not rises or (list_offsets[1:] < list_offsets[:-1]).any():
        raise IndexFormatError(f"{path}: malformed: list_offsets do not rise from 0 to {n_items}")


def _list_lengths_loader(
    path: Path,
    header: dict[str, Any],
    params: IVFPQParams,
    quantization: Quantization,
    array: Callable[..., StoredArray],
) -> LoadOptionalArray | None:
    # Version 1 knew none.
    if "has_list_lengths" not in header or not get_checked(path, header, "has_list_lengths", bool):
        return no_list_lengths
    if not tell_of_lists(params.metric, quantization):
        return None
    list_lengths = array("list_lengths", "<f8", params.n_lists).read_into_memory()
    _check_lengths(path, list_lengths)
    return lambda: list_lengths


def _vectors_loader(
    path: Path,
    entries: dict[str, Any],
    params: IVFPQParams,
    quantization: Quantization,
    n_items: int,
) -> LoadVectors | None:
    names = "vectors", "vector_scales"
    if not any(name in entries for name in names):
        if params.refine:
            raise IndexFormatError(f"{path}: malformed header: refine, and no vectors")
        return None
    if not all(name in entries for name in names):
        raise IndexFormatError(f"{path}: malformed header: only one of vectors and vector_scales")
    stored = get_checked(path, entries, "vectors", dict)
    dtype = "|i1" if stored.get("dtype") == "|i1" else "<f2"
    shape = n_items, quantization.dim
    values = StoredArray.map(path, entries, "vectors", dtype, shape)
    scales = StoredArray.map(path, entries, "vector_scales", "<f4", (n_items,))
    origin = origin_of(params, quantization)
    return lambda: _read_vectors(values, scales, origin)


def _read_vectors(
    values: StoredArray, scales: StoredArray, origin: Float32 | None
) -> StoredVectors:
    try:
        vectors = StoredVectors(values.read(), scales.read(), origin)
    except IndexFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise IndexFormatError(f"{values.file.path}: malformed: {error}") from error
    _check_finite(values.file.path, vectors)
    return vectors


def _check_finite(path: Path, vectors: StoredVectors) -> None:
    sizes = vectors.values if vectors.scales is None else vectors.scales
    if not np.isfinite(sizes).all() or (vectors.scales is not None and (sizes < 0).any()):
        raise IndexFormatError(f"{path}: malformed: vectors, or their scales, that are not finite")


def _check_lengths(path: Path, list_lengths: NDArray[np.float64]) -> None:
    if not (np.isfinite(list_lengths) & (list_lengths >= 0)).all():
        raise IndexFormatError(f"{path}: malformed: list_lengths that are no lengths")


def _read_item_ids(stored: StoredArray, list_offsets: Int64) -> Int64:
    item_ids = stored.read()
    rises = item_ids[1:] > item_ids[:-1]
    starts = list_offsets[1:-1]
    rises[starts[(starts > 0) & (starts < len(item_ids))] - 1] = True
    if not rises.all():
        raise IndexFormatError(f"{stored.file.path}: malformed: ids do not rise within a list")
    return item_ids


def _read_codes(stored: StoredArray, params: IVFPQParams) -> NDArray[np.unsignedinteger]:
    codes = stored.read()
    # Where a code fills its bits, every value is one.
    if params.pq_bits not in (4, 8, 16) and codes.size and codes.max() >= params.pq_book_size:
        raise IndexFormatError(
            f"{stored.file.path}: malformed: expected codes below {params.pq_book_size}, "
            f"got {codes.max()}"
        )
    return codes


def _table_loader(path: Path, header: dict[str, Any]) -> Callable[[], pd.DataFrame | None]:
    if ITEM_TABLE not in header:
        raise IndexFormatError(f"{path}: malformed header: no {ITEM_TABLE}")
    if header[ITEM_TABLE] is None:
        return lambda: None
    stored = StoredFile.map(path, header[ITEM_TABLE], TABLE_NAME)
    return lambda: _read_table(stored)


def _read_table(stored: StoredFile) -> pd.DataFrame:
    content = stored.verified()
    import pyarrow as pa  # here, because importing it takes longer than opening the index

    # Whether the index holds the items of all rows is not asked: that would read all of its ids.
    try:
        return from_parquet(content)
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise IndexFormatError(f"{stored.path}: malformed item table: {error}") from error
