"""Read and write the index files of Poeem (https://github.com/jdcomsearch/poeem).

Little endian, no magic, no checksum: ``use_residual`` int8; int64 ``n_items``, ``dim``,
``n_lists``, ``pq_book_size``, ``pq_dim``; then the codebook, item ids, item norms, codes, coarse
centroids and the list of each item. A file's size and values are checked against its header, which
finds truncated and foreign files; but a flipped bit in a centroid can't be told from a centroid.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, read_only
from merlin_poeem.atomic_files import replacing_file
from merlin_poeem.convert.scales import refuse_scales
from merlin_poeem.convert.stretched import refuse_stretched
from merlin_poeem.index.index import Index
from merlin_poeem.index.stored_files import IndexFormatError
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import MAX_PQ_BITS, IVFPQParams, Metric

__all__ = ["read_poeem", "write_poeem"]

HEADER = struct.Struct("<b5q")
ROWS_PER_CHUNK = 1 << 16


def read_poeem(path: str | os.PathLike[str], metric: Metric = "inner_product") -> Index:
    """Read a Poeem index file.

    With ``metric="inner_product"`` and all lists probed, a search returns what Poeem's
    ``metric_type`` 1 returns. Rows whose norm is 0 are left out, as Poeem's search leaves them out;
    ``index.info["rows_dropped"]`` counts them. A codebook of a size that is no power of two is
    filled up with copies of its first codeword, which no item refers to.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``path``.
    IndexFormatError
        The size of the file does not fit its header; absurd header values; codes or lists out of
        range; repeated ids; NaN or infinite centroids.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise IndexFormatError(f"{path}: not a Poeem index: not a file")
    with path.open("rb") as file:
        layout = _read_layout(path, file)
        arrays = {
            name: _read_array(path, file, dtype, shape) for name, dtype, shape in layout.arrays()
        }
    try:
        return _to_index(layout, arrays, metric)
    except (TypeError, ValueError) as error:
        raise IndexFormatError(f"{path}: malformed Poeem index: {error}") from error


def write_poeem(
    index: Index,
    path: str | os.PathLike[str],
    *,
    drop_rotation: bool = False,
    without_scales: bool = False,
) -> None:
    """Write ``index`` as a Poeem index file, atomically.

    ``item_norm`` is the squared norm of an item's reconstruction, with which Poeem's
    ``metric_type`` 0 is the true squared L2 distance; for an index with the cosine metric it is the
    norm itself, with which ``metric_type`` 2 gives the order of the cosine. It is kept above 0, as
    Poeem drops rows where it is 0. ``n_probes``, ``info``, list lengths, stored vectors and the
    item table have no place in the file and are left out.

    Raises
    ------
    ValueError
        The index has scales, which the file can't hold. With ``without_scales=True`` they are left
        out, and scores are those of the codes alone.
        The index has a rotation, which it can't hold either. With ``drop_rotation=True`` it is left
        out: whoever searches the file must then rotate the queries, ``queries @ rotation``.
        The index has a ``query_rotation``.
    """
    refuse_stretched(index, "a Poeem file")
    refuse_scales(index, "a Poeem file", without_scales=without_scales)
    quantization = index.quantization
    if quantization.rotation is not None and not drop_rotation:
        raise ValueError(
            "index: expected one without a rotation, which a Poeem file can't hold; "
            "drop_rotation=True leaves it out, and queries must then be rotated by hand "
            "(queries @ index.quantization.rotation)"
        )
    layout = _Layout(
        quantization.encodes_residual,
        index.n_items,
        quantization.dim,
        quantization.n_lists,
        quantization.pq_book_size,
        quantization.pq_dim,
    )
    values = {
        "codebook": quantization.codebook,
        "item_id": index.item_ids,
        "item_norm": _item_norms(index),
        "item_code": index.codes,
        "coarse_centroids": quantization.coarse_centroids,
        "assignment": index.list_ids,
    }
    with replacing_file(path) as file:
        file.write(layout.header())
        for name, dtype, _ in layout.arrays():
            np.ascontiguousarray(values[name], dtype).tofile(file)


@dataclass(frozen=True)
class _Layout:
    """The header of a Poeem file, in our names, and what follows from it."""

    encodes_residual: bool
    n_items: int
    dim: int
    n_lists: int
    pq_book_size: int
    pq_dim: int

    def header(self) -> bytes:
        return HEADER.pack(
            self.encodes_residual,
            self.n_items,
            self.dim,
            self.n_lists,
            self.pq_book_size,
            self.pq_dim,
        )

    def arrays(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """(name, dtype, shape) of the arrays, in the order of the file."""
        code_dtype = "<u2" if self.pq_book_size > 256 else "|u1"
        yield "codebook", "<f4", (self.pq_dim, self.pq_book_size, self.dim // self.pq_dim)
        yield "item_id", "<i8", (self.n_items,)
        yield "item_norm", "<f4", (self.n_items,)
        yield "item_code", code_dtype, (self.n_items, self.pq_dim)
        yield "coarse_centroids", "<f4", (self.n_lists, self.dim)
        yield "assignment", "<u4", (self.n_items,)

    def file_size(self) -> int:
        # Python integers: absurd header values can't overflow.
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in self.arrays()]
        return HEADER.size + sum(sizes)


def _read_layout(path: Path, file: BinaryIO) -> _Layout:
    """The header, checked to describe a file of exactly this size."""
    data = file.read(HEADER.size)
    if len(data) < HEADER.size:
        raise IndexFormatError(f"{path}: truncated Poeem index: {len(data)} bytes")
    use_residual, *sizes = HEADER.unpack(data)
    layout = _Layout(bool(use_residual), *sizes)
    plausible = (
        use_residual in (0, 1)
        and layout.n_items >= 0
        and min(layout.dim, layout.n_lists, layout.pq_dim) >= 1
        and 1 <= layout.pq_book_size <= 1 << MAX_PQ_BITS
        and layout.dim % layout.pq_dim == 0
    )
    if not plausible:
        raise IndexFormatError(f"{path}: not a Poeem index: its header reads as {layout}")
    got, expected = os.fstat(file.fileno()).st_size, layout.file_size()
    if got != expected:
        case = "truncated" if got < expected else "not a"
        raise IndexFormatError(
            f"{path}: {case} Poeem index: expected {expected} bytes for {layout}, got {got}"
        )
    return layout


def _read_array(path: Path, file: BinaryIO, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    count = math.prod(shape)
    array = np.fromfile(file, dtype, count)
    if len(array) != count:
        raise IndexFormatError(f"{path}: truncated Poeem index: it shrank while being read")
    return array.reshape(shape)


def _to_index(layout: _Layout, arrays: dict[str, NDArray[Any]], metric: Metric) -> Index:
    kept = arrays["item_norm"] != 0
    item_ids, codes = read_only(arrays["item_id"][kept]), read_only(arrays["item_code"][kept])
    # Before the codebook is filled up: a code of the filling would be no error any more.
    if codes.size and codes.max() >= layout.pq_book_size:
        raise ValueError(f"codes: expected below {layout.pq_book_size}, got {codes.max()}")
    codebook = _filled_up(arrays["codebook"])
    quantization = Quantization(
        arrays["coarse_centroids"], codebook, encodes_residual=layout.encodes_residual
    )
    params = IVFPQParams(
        n_lists=quantization.n_lists,
        pq_dim=quantization.pq_dim,
        pq_bits=quantization.pq_bits,
        metric=metric,
    )
    item_codes = ItemCodes(item_ids, arrays["assignment"][kept], codes)
    info = {"read_from": "Poeem index file", "rows_dropped": int(len(kept) - kept.sum())}
    return Index.from_codes(params, quantization, item_codes, info=info).without_list_lengths()


def _filled_up(codebook: Float32) -> Float32:
    """The codebook with 16, 256 or a higher power of two of codewords per subspace."""
    pq_book_size = codebook.shape[1]
    size = next(1 << bits for bits in (4, *range(8, MAX_PQ_BITS + 1)) if pq_book_size <= 1 << bits)
    # Ties go to the lower number, so a copy of the first codeword is never chosen.
    filling = np.repeat(codebook[:, :1], size - pq_book_size, axis=1)
    return np.concatenate([codebook, filling], axis=1)


def _item_norms(index: Index) -> Float32:
    """(n_items,) float32, see :func:`write_poeem`."""
    norms = np.empty(index.n_items, np.float32)
    quantization, limits = replace(index.quantization, scale_range=None), np.finfo(np.float32)
    for start in range(0, index.n_items, ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        list_ids, codes, _ = index.coded(rows)
        decoded = coding.decode_rotated(quantization, list_ids, codes)
        squared = (decoded.astype(np.float64) ** 2).sum(axis=1)
        chosen = np.sqrt(squared) if index.params.metric == "cosine" else squared
        norms[rows] = np.clip(chosen, limits.tiny, limits.max)
    return norms
