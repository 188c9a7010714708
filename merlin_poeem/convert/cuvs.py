"""Write an index as a cuVS IVF-PQ file, for ``cuvs.neighbors.ivf_pq.load``; needs no cuVS.

The file is version 4 of cuVS' format, of its releases 26.06 to 26.10: arrays and scalars in NumPy's
``.npy`` format (version 1.0), one after the other. Read for this, in rapidsai/cuvs:
``cpp/src/neighbors/ivf_pq/ivf_pq_serialize.cuh`` (the order), ``ivf_pq_codepacking.cuh`` and
``list_spec_interleaved`` in ``cpp/include/cuvs/neighbors/ivf_pq.hpp`` (the codes),
``cpp/src/neighbors/ivf_pq_index.cu`` (the shapes), ``cpp/src/neighbors/ivf_list.cuh`` (the lists)
and ``jit_lto_kernels/create_lut_impl.cuh`` (what it scores); in rapidsai/raft:
``cpp/include/raft/core/detail/mdspan_numpy_serializer.hpp`` (dtypes: a bool is ``|u1``, an enum the
integer under it); and the headers of the libcuvs and libraft 26.10 wheels, for the enums. cuVS
compares the version with its own and refuses any other.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32
from merlin_poeem.atomic_files import replacing_file
from merlin_poeem.convert.scales import refuse_scales
from merlin_poeem.convert.stretched import refuse_stretched
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import Metric

__all__ = ["save_cuvs"]

SERIALIZATION_VERSION = 4

# cuvs::distance::DistanceType: squared L2, and the inner product.
DISTANCE_TYPES = {"l2": 0, "inner_product": 6}
# cuvs::neighbors::ivf_pq::codebook_gen and list_layout.
PER_SUBSPACE = 0
INTERLEAVED = 1

PQ_BITS = range(4, 9)
# Items whose codes lie side by side, and the bytes of each that are read at once.
GROUP_ITEMS = 32
CHUNK_BYTES = 16
# Centres are padded to a multiple of this many columns, one of them their squared norm.
CENTRE_ALIGNMENT = 8
# What cuVS fills short results with.
NO_ITEM = np.iinfo(np.int64).max

# Its functions have no types in some NumPy releases.
_npy: Any = np.lib.format


def save_cuvs(
    index: Index,
    path: str | os.PathLike[str],
    *,
    metric: Metric | None = None,
    without_scales: bool = False,
) -> None:
    """Write ``index`` as a cuVS IVF-PQ file, atomically; a file at ``path`` is replaced.

    cuVS then holds the same centroids, codebook, codes and rotation, and returns the items' own
    ids. ``item_table``, ``info``, ``list_lengths`` and ``vectors`` have no place in the file and
    are left out, as is the default ``n_probes``, which is cuVS' search parameter. Under ``l2`` cuVS
    returns squared distances, lowest first: the negative of our scores. It chooses lists by ⟨q, c⟩
    in the raw space, by centroids rotated back, so that of lists which score alike to float32's
    rounding it may visit another.

    Parameters
    ----------
    metric
        What cuVS is to rank by, ``"inner_product"`` or ``"l2"``; None takes the index's own. cuVS'
        cosine is ⟨q, x̂⟩ / ‖q‖, without the division by ‖x̂‖ that ours has, so a cosine index is
        only written with ``metric="inner_product"``: the order is then that of cuVS' cosine.
    without_scales
        Whether item scales, which cuVS can't hold, may be left out: scores are then ⟨q, x̂⟩.

    Raises
    ------
    ValueError
        What cuVS can't hold or would take for something else: a cosine index without ``metric``,
        an index with scales without ``without_scales``, a ``query_rotation``,
        codes that are not of residuals, ``pq_bits`` other than 4 to 8, a code of an item that does
        not fill its last byte, ids below 0 or 2**63 − 1.
    """
    metric = index.params.metric if metric is None else metric
    refuse_stretched(index, "a cuVS file")
    refuse_scales(index, "a cuVS file", without_scales=without_scales)
    _check(index, metric)
    quantization = index.quantization
    with replacing_file(path) as file:
        _write_header(file, index, metric)
        _write(file, "<f4", quantization.codebook.transpose(0, 2, 1))
        _write(file, "<f4", padded_centres(quantization))
        _write(file, "<f4", quantization.coarse_centroids)
        _write(file, "<f4", rotation_matrix(quantization))
        _write(file, "<u4", index.list_sizes)
        _write_lists(file, index)


def padded_centres(quantization: Quantization) -> Float32:
    """The centroids in the raw space, then their squared norms, then zeros.

    (n_lists, dim + 1 rounded up to a multiple of 8) float32.
    """
    centres = quantization.rotate_back(quantization.coarse_centroids)
    dim = quantization.dim
    width = _ceil(dim + 1, CENTRE_ALIGNMENT) * CENTRE_ALIGNMENT
    padded = np.zeros((quantization.n_lists, width), np.float32)
    padded[:, :dim] = centres
    padded[:, dim] = (centres**2).sum(axis=1)
    return padded


def rotation_matrix(quantization: Quantization) -> Float32:
    """(dim, dim) float32 R with ``x_rot = R @ x``, the transpose of our rotation."""
    if quantization.rotation is None:
        return np.eye(quantization.dim, dtype=np.float32)
    return quantization.rotation.T


def interleave(codes: NDArray[np.unsignedinteger], pq_bits: int) -> NDArray[np.uint8]:
    """The codes (n, pq_dim) of one list as cuVS lays them out: (groups, chunks, 32, 16) uint8.

    Item i is in group i // 32 at place i % 32. A chunk holds as many codes as fit in its 128 bits,
    the first in the lowest bits; no code is spread over two chunks, and what is left is zero.
    """
    n_items, pq_dim = codes.shape
    per_chunk = 8 * CHUNK_BYTES // pq_bits
    n_groups, n_chunks = _ceil(n_items, GROUP_ITEMS), _ceil(pq_dim, per_chunk)
    padded = np.zeros((n_groups * GROUP_ITEMS, n_chunks * per_chunk), np.uint8)
    padded[:n_items, :pq_dim] = codes
    bits = np.unpackbits(padded[:, :, None], axis=2, count=pq_bits, bitorder="little")
    bits = bits.reshape(n_groups, GROUP_ITEMS, n_chunks, per_chunk * pq_bits)
    chunks = np.packbits(bits, axis=3, bitorder="little")
    interleaved = np.zeros((n_groups, n_chunks, GROUP_ITEMS, CHUNK_BYTES), np.uint8)
    interleaved[..., : chunks.shape[3]] = chunks.transpose(0, 2, 1, 3)
    return interleaved


def _check(index: Index, metric: str) -> None:
    if metric not in DISTANCE_TYPES:
        raise ValueError(
            f"metric: expected inner_product or l2, which mean in cuVS what they mean here; got "
            f"{metric!r}; name metric='inner_product' to write the codes without the division by "
            "the norm"
        )
    if not index.quantization.encodes_residual:
        raise ValueError("index: expected codes of residuals, all that cuVS has; got codes of x")
    params = index.params
    if params.pq_bits not in PQ_BITS:
        raise ValueError(f"pq_bits: expected 4 to 8, all that cuVS has; got {params.pq_bits}")
    if params.pq_dim * params.pq_bits % 8:
        raise ValueError(
            "pq_dim: expected pq_dim * pq_bits to be a multiple of 8, as cuVS does; "
            f"got {params.pq_dim} * {params.pq_bits}"
        )
    ids = index.item_ids
    if index.n_items and (ids.min() < 0 or ids.max() == NO_ITEM):
        raise ValueError(
            "item_ids: expected 0 to 2**63 - 2, as cuVS marks missing items with the others; "
            f"got {ids.min()} to {ids.max()}"
        )


def _write_header(file: BinaryIO, index: Index, metric: str) -> None:
    params = index.params
    memory_is_conservative = True  # lists padded to 32 items, not to 1,024
    for dtype, value in (
        ("<i4", SERIALIZATION_VERSION),
        ("<i8", index.n_items),
        ("<u4", index.dim),
        ("<u4", params.pq_bits),
        ("<u4", params.pq_dim),
        ("|u1", memory_is_conservative),
        ("<i4", DISTANCE_TYPES[metric]),
        ("<i4", PER_SUBSPACE),
        ("<i4", INTERLEAVED),
        ("<u4", params.n_lists),
    ):
        _write(file, dtype, value)


def _write_lists(file: BinaryIO, index: Index) -> None:
    codes, item_ids = index.codes, index.item_ids
    for first, end in zip(index.list_offsets[:-1], index.list_offsets[1:], strict=True):
        _write(file, "<u4", end - first)
        if end > first:
            _write(file, "|u1", interleave(codes[first:end], index.params.pq_bits))
            _write(file, "<i8", item_ids[first:end])


def _write(file: BinaryIO, dtype: str, values: Any) -> None:
    """``values`` as one .npy of that ``dtype``, C-contiguous; a number as one of no dimensions."""
    _npy.write_array(file, np.array(values, dtype, order="C"), version=(1, 0), allow_pickle=False)


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)
