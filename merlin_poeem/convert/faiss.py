"""Our index as a Faiss index and back, without re-encoding: every array is taken over as it is.

The one place that knows how Faiss lays out what we name otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, Int64, read_only, type_name
from merlin_poeem.convert.scales import refuse_scales
from merlin_poeem.convert.stretched import refuse_stretched
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.fit import import_faiss
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization, unpack_codes
from merlin_poeem.quantization.lengths import longest_length, typical_length
from merlin_poeem.quantization.params import IVFPQParams, Metric

__all__ = ["build_ivfpq", "from_faiss", "to_faiss", "to_faiss_gpu"]

Codes = NDArray[np.unsignedinteger]

# Where our packing of codes is Faiss' own; other widths become bit strings there.
SAME_PACKING = (4, 8, 16)
# Times the typical codeword: a table then costs a distance some 1e-5 of its size at most.
LONGEST_FOR_TABLE = 32


def to_faiss(index: Index, *, metric: Metric | None = None, without_scales: bool = False) -> Any:
    """``index`` as an ``IndexIVFPQ``, inside an ``IndexPreTransform`` where there is a rotation.

    Holds the same arrays and the items' own ids; ``nprobe`` is the index's default ``n_probes``.
    ``item_table``, ``info`` and ``vectors`` have no place in a Faiss index and are left out, as is
    ``list_lengths``: Faiss chooses lists by ⟨q, c⟩. Under ``l2``, Faiss returns squared distances,
    lowest first: the negative of our scores.

    Parameters
    ----------
    metric
        What Faiss is to rank by, ``"inner_product"`` or ``"l2"``; None takes the index's own. Faiss
        knows no norm per item, so a cosine index is only exported with ``metric="inner_product"``:
        scores are then ⟨q, x̂⟩, not divided by ‖x̂‖.
    without_scales
        Whether item scales, which Faiss can't hold, may be left out: scores are then ⟨q, x̂⟩.

    Raises
    ------
    ValueError
        A cosine index without ``metric``, an index with scales without ``without_scales``, one with
        a ``query_rotation``, or negative item ids (Faiss pads with −1).
    ImportError
        faiss-cpu is not installed.
    """
    faiss = import_faiss()
    refuse_stretched(index, "a Faiss index")
    refuse_scales(index, "a Faiss index", without_scales=without_scales)
    metric = index.params.metric if metric is None else metric
    if metric not in ("inner_product", "l2"):
        raise ValueError(
            f"metric: expected inner_product or l2, all that Faiss has, got {metric!r}; "
            "name metric='inner_product' to export the codes without the division by the norm"
        )
    if index.n_items and index.item_ids.min() < 0:
        raise ValueError(
            f"item_ids: expected none below 0, as Faiss pads with −1; got {index.item_ids.min()}"
        )
    ivfpq = build_ivfpq(index, index.quantization, index.item_ids, metric)
    rotation = index.quantization.rotation
    if rotation is None:
        return ivfpq
    transform = faiss.LinearTransform(index.dim, index.dim, False)
    faiss.copy_array_to_vector(rotation.T.ravel(), transform.A)
    transform.is_trained = True
    transform.set_is_orthonormal()
    pre_transform = faiss.IndexPreTransform(transform, ivfpq)
    transform.this.disown()
    ivfpq.this.disown()
    pre_transform.own_fields = True
    return pre_transform


def to_faiss_gpu(
    index: Index,
    *,
    metric: Metric | None = None,
    without_scales: bool = False,
    use_cuvs: bool = False,
    device: int = 0,
    resources: Any = None,
) -> Any:
    """:func:`to_faiss`, copied to a GPU by Faiss.

    Parameters
    ----------
    metric, without_scales
        As for :func:`to_faiss`.
    use_cuvs
        Whether cuVS searches it (its list layout, any ``pq_dim``) or Faiss' own kernels.
    device
        The GPU's number.
    resources
        A ``faiss.StandardGpuResources``, such as one with a stream set; None makes one.

    Raises
    ------
    ValueError
        As :func:`to_faiss` does, or no such device.
    ImportError
        Faiss is not installed, or is a build without GPUs or, with ``use_cuvs``, without cuVS.
    RuntimeError
        Faiss finds no GPU, or has no kernel for this index (its own take few ``pq_dim``).
    """
    faiss = import_faiss()
    _check_gpu_build(faiss, use_cuvs, device)
    options = faiss.GpuClonerOptions()
    options.use_cuvs = use_cuvs
    if resources is None:
        resources = faiss.StandardGpuResources()
    exported = to_faiss(index, metric=metric, without_scales=without_scales)
    return faiss.index_cpu_to_gpu(resources, device, exported, options)


def _check_gpu_build(faiss: Any, use_cuvs: bool, device: int) -> None:
    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError(
            f"faiss: expected a build with GPU support, got {faiss.__version__} without; "
            "pip install faiss-gpu-cuvs in the place of faiss-cpu"
        )
    if use_cuvs and "CUVS" not in faiss.get_compile_options():
        raise ImportError(
            f"faiss: expected a build with cuVS, got {faiss.__version__} with "
            f"{faiss.get_compile_options().strip()}; pip install faiss-gpu-cuvs"
        )
    n_devices = faiss.get_num_gpus()
    if not n_devices:
        raise RuntimeError("faiss: expected an NVIDIA GPU, got none that Faiss finds")
    if not 0 <= device < n_devices:
        raise ValueError(f"device: expected 0 to {n_devices - 1}, got {device}")


def from_faiss(faiss_index: Any, *, metric: Metric | None = None) -> Index:
    """A trained Faiss ``IndexIVFPQ``, with or without an orthogonal transform before it, as ours.

    Codes, codebook and centroids are taken over as they are; lists are then chosen by our metric,
    whatever Faiss' coarse quantizer ranked by, and by ⟨q, c⟩ where that is the inner product.

    Parameters
    ----------
    metric
        None takes Faiss' own; ``"cosine"`` restores a cosine index that was exported as inner
        product.

    Raises
    ------
    TypeError
        Another kind of index, transform or metric.
    ValueError
        Not trained, a transform that is no rotation, or ids that repeat.
    ImportError
        faiss-cpu is not installed.
    """
    ivfpq, rotation = _split(faiss_index)
    if not ivfpq.is_trained:
        raise ValueError("faiss_index: expected a trained index, got one that is not")
    quantization = _quantization(ivfpq, rotation)
    params = IVFPQParams(
        n_lists=quantization.n_lists,
        pq_dim=quantization.pq_dim,
        pq_bits=quantization.pq_bits,
        metric=_metric(ivfpq) if metric is None else metric,
        n_probes=min(ivfpq.nprobe, quantization.n_lists),
    )
    return Index.from_codes(params, quantization, _item_codes(ivfpq)).without_list_lengths()


def build_ivfpq(
    index: Index,
    quantization: Quantization,
    ids: Int64,
    metric: Metric,
    packed_codes: Callable[[slice], Codes] | None = None,
) -> Any:
    """The items of ``index`` as an ``IndexIVFPQ`` over ``quantization``, in the rotated space.

    ``ids`` (n_items,) int64 are what Faiss is to return for the rows. ``packed_codes`` gives the
    codes of rows in ``quantization``; None takes the index's, their codes alone without scales.
    """
    faiss = import_faiss()
    flat, faiss_metric = faiss.IndexFlatIP, faiss.METRIC_INNER_PRODUCT
    if metric == "l2":
        flat, faiss_metric = faiss.IndexFlatL2, faiss.METRIC_L2
    coarse = flat(quantization.dim)
    coarse.add(quantization.coarse_centroids)
    ivfpq = faiss.IndexIVFPQ(
        coarse,
        quantization.dim,
        quantization.n_lists,
        quantization.pq_dim,
        quantization.pq_bits,
        faiss_metric,
    )
    coarse.this.disown()
    ivfpq.own_fields = True
    faiss.copy_array_to_vector(quantization.codebook.ravel(), ivfpq.pq.centroids)
    ivfpq.by_residual = quantization.encodes_residual
    ivfpq.is_trained = True
    ivfpq.nprobe = index.params.n_probes
    if metric == "l2" and quantization.encodes_residual and _table_is_exact(quantization):
        # As Faiss does after training: the terms of ‖q − c − y‖² that no query changes, per list.
        ivfpq.precompute_table()
    packed_codes = packed_codes or index.packed_codes.__getitem__
    for list_id in np.flatnonzero(index.list_sizes):
        rows = slice(index.list_offsets[list_id], index.list_offsets[list_id + 1])
        of_list = np.ascontiguousarray(ids[rows], np.int64)
        codes = _pack(packed_codes(rows), quantization.pq_bits)
        ivfpq.invlists.add_entries(
            int(list_id), len(of_list), faiss.swig_ptr(of_list), faiss.swig_ptr(codes)
        )
    ivfpq.ntotal = index.n_items
    return ivfpq


def _table_is_exact(quantization: Quantization) -> bool:
    """Whether a table of terms leaves ‖q − c − y‖² its digits; without it, Faiss subtracts first.

    Where q is near c, 2⟨q, y⟩ and 2⟨c, y⟩ cancel and leave their rounding, of 1e-7 ‖c‖ ‖y‖: little
    beside ‖y‖², which is what most distances are of, only while c is not many times as long as y.
    """
    typical = math.hypot(*map(typical_length, quantization.codebook))
    longest = math.hypot(
        longest_length(quantization.coarse_centroids), *map(longest_length, quantization.codebook)
    )
    return longest <= LONGEST_FOR_TABLE * typical


def _pack(packed: Codes, pq_bits: int) -> NDArray[np.uint8]:
    """Stored codes as the bytes that Faiss keeps, (n, code_size)."""
    if pq_bits in SAME_PACKING:
        return np.ascontiguousarray(packed).view(np.uint8)
    return np.asarray(import_faiss().pack_bitstrings(packed.astype(np.int32), pq_bits))


def _unpack(code_bytes: NDArray[np.uint8], pq_dim: int, pq_bits: int) -> Codes:
    """The inverse of :func:`_pack`, one code a column: (n, pq_dim)."""
    if pq_bits in SAME_PACKING:
        packed = code_bytes.view(np.uint16) if pq_bits == 16 else code_bytes
        return unpack_codes(packed, pq_dim, pq_bits)
    codes = import_faiss().unpack_bitstrings(code_bytes, pq_dim, pq_bits)
    return np.asarray(codes.astype(np.uint8 if pq_bits <= 8 else np.uint16))


def _split(faiss_index: Any) -> tuple[Any, Float32 | None]:
    """The ``IndexIVFPQ`` and the rotation before it."""
    faiss = import_faiss()
    if not isinstance(faiss_index, faiss.Index):
        raise TypeError(f"faiss_index: expected a Faiss index, got {type_name(faiss_index)}")
    inner, rotation = faiss.downcast_index(faiss_index), None
    if type(inner) is faiss.IndexPreTransform:
        rotation = _rotation(inner)
        inner = faiss.downcast_index(inner.index)
    if type(inner) is not faiss.IndexIVFPQ:
        raise TypeError(
            "faiss_index: expected IndexIVFPQ, alone or in an IndexPreTransform; "
            f"got {type(inner).__name__}"
        )
    return inner, rotation


def _rotation(pre_transform: Any) -> Float32:
    faiss = import_faiss()
    if pre_transform.chain.size() != 1:
        raise TypeError(
            f"faiss_index: expected one transform before it, got {pre_transform.chain.size()}"
        )
    transform = faiss.downcast_VectorTransform(pre_transform.chain.at(0))
    if not isinstance(transform, faiss.LinearTransform):
        raise TypeError(
            f"faiss_index: expected a LinearTransform before it, got {type(transform).__name__}"
        )
    if transform.have_bias or transform.d_in != transform.d_out:
        raise ValueError(
            "faiss_index: expected a transform that is a rotation, got one from "
            f"{transform.d_in} to {transform.d_out} dimensions"
            + (" with a bias" if transform.have_bias else "")
        )
    matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    return np.ascontiguousarray(matrix.T, np.float32)


def _quantization(ivfpq: Any, rotation: Float32 | None) -> Quantization:
    pq = ivfpq.pq
    codebook = import_faiss().vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    centroids = ivfpq.quantizer.reconstruct_n(0, ivfpq.nlist)
    return Quantization(centroids, codebook, rotation, bool(ivfpq.by_residual))


def _metric(ivfpq: Any) -> Metric:
    faiss = import_faiss()
    if ivfpq.metric_type == faiss.METRIC_INNER_PRODUCT:
        return "inner_product"
    if ivfpq.metric_type == faiss.METRIC_L2:
        return "l2"
    raise TypeError(
        "faiss_index: expected METRIC_INNER_PRODUCT or METRIC_L2, "
        f"got metric_type {ivfpq.metric_type}"
    )


def _item_codes(ivfpq: Any) -> ItemCodes:
    faiss = import_faiss()
    lists, pq = ivfpq.invlists, ivfpq.pq
    sizes = [lists.list_size(list_id) for list_id in range(ivfpq.nlist)]
    ids = [np.empty(0, np.int64)]
    code_bytes = [np.empty(0, np.uint8)]
    for list_id in np.flatnonzero(sizes).tolist():
        size = sizes[list_id]
        ids.append(faiss.rev_swig_ptr(lists.get_ids(list_id), size).copy())
        codes = lists.get_codes(list_id)
        code_bytes.append(faiss.rev_swig_ptr(codes, size * ivfpq.code_size).copy())
    stored = read_only(np.concatenate(code_bytes)).reshape(-1, ivfpq.code_size)
    list_ids = read_only(np.repeat(np.arange(ivfpq.nlist, dtype=np.int32), sizes))
    item_ids = read_only(np.concatenate(ids))
    return ItemCodes(item_ids, list_ids, _unpack(stored, pq.M, pq.nbits))
