"""What our GPU search is measured beside, each behind one call; none of them has to be installed.

All of them work on the CUDA stream that is current when they are opened, on queries that lie on the
device already, and leave their results there: only then are times by events of that stream fair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.catalogs import Catalog
from merlin_poeem import Candidates, Index
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.convert.cuvs import save_cuvs
from merlin_poeem.convert.faiss import to_faiss_gpu

# All scores of a batch at once are up to hundreds of GB: exact peers go by so many bytes of them.
SCORE_BYTES = 2 << 30
SMALL_BATCH = 32
NO_ID = -1

Hits = tuple[Float32, Int64]


@dataclass(frozen=True)
class Backend:
    """A way to search, ours or a peer's."""

    name: str
    version: str
    search: Callable[[Any, int, int], Any]
    """(queries, k, n_probes) → a result as the backend gives it, on the device."""
    read: Callable[[Any, int], Hits]
    """(result, k) → scores (n, k) float32 and item ids (n, k) int64, on the host; not timed."""
    on_device: bool = True
    """False: queries and results are NumPy arrays, and time is the wall clock's."""
    peer: str | None = None
    """The library that it is of; None for ours."""
    is_exact: bool = False
    """Scores float vectors, all of them: knows no lists and no codes."""
    max_batch: int | None = None
    """Larger batches are left out, as they would take minutes."""
    note: str = ""


@dataclass(frozen=True)
class Material:
    """What peers are opened on."""

    catalog: Catalog
    vectors: Any
    """(n_items, dim) float32, all items, on the device."""
    xp: ModuleType
    """CuPy; NumPy where the device is emulated."""
    stream: int
    """The current CUDA stream."""


def open_exact_peers(material: Material) -> list[Backend]:
    """Those that score float vectors; a printed line says why each other one cannot be had."""
    return _open(EXACT_PEERS, material)


def open_index_peers(material: Material, index: Index, folder: Path) -> list[Backend]:
    """Those that search ``index``; a printed line says why each other one cannot be had.

    Files that they read are put into ``folder``, and deleted.
    """
    return _open(INDEX_PEERS, material, index, folder)


def _open(openers: Mapping[str, Callable[..., list[Backend]]], *material: Any) -> list[Backend]:
    peers = []
    for name, opener in openers.items():
        try:
            peers += opener(*material)
        except Exception as error:  # whatever a foreign library raises, the others are measured
            print(f"missing: {name}: {first_line(error)}")
    return peers


def first_line(error: Exception) -> str:
    """What ``error`` says, without the traces that CUDA libraries append."""
    return str(error).splitlines()[0] if str(error) else repr(error)


def candidates_on_host(candidates: Candidates, k: int) -> Hits:
    """A searcher's answer, its arrays NumPy's or CuPy's, as (n, k) arrays; NO_ID fills rows up."""
    return candidates.to_host().padded(k, fill_id=NO_ID)


def open_faiss_cpu(index: Index) -> Backend:
    """Our own CPU backend."""
    import faiss

    from merlin_poeem.search.cpu import FaissSearcher

    searcher = FaissSearcher(index)
    return Backend(
        "faiss cpu",
        faiss.__version__,
        lambda queries, k, n_probes: searcher.search(queries, k=k, n_probes=n_probes),
        candidates_on_host,
        peer="faiss",
        on_device=False,
        max_batch=SMALL_BATCH,
    )


def _open_faiss_gpu(material: Material, index: Index, use_cuvs: bool) -> list[Backend]:
    xp = _cupy(material)
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError(f"the installed faiss {faiss.__version__} has no GPU support")
    resources = faiss.StandardGpuResources()
    stream = faiss.cast_integer_to_cudastream_t(material.stream)
    resources.setDefaultStream(xp.cuda.Device().id, stream)
    searched = to_faiss_gpu(
        index, use_cuvs=use_cuvs, device=xp.cuda.Device().id, resources=resources
    )
    parameters = faiss.GpuParameterSpace()

    def search(queries: Any, k: int, n_probes: int) -> Any:
        parameters.set_index_parameter(searched, "nprobe", n_probes)
        scores = xp.empty((len(queries), k), xp.float32)
        item_ids = xp.empty((len(queries), k), xp.int64)
        searched.search_c(
            len(queries),
            faiss.cast_integer_to_float_ptr(queries.data.ptr),
            k,
            faiss.cast_integer_to_float_ptr(scores.data.ptr),
            faiss.cast_integer_to_idx_t_ptr(item_ids.data.ptr),
        )
        return scores, item_ids

    name = "faiss gpu (cuvs)" if use_cuvs else "faiss gpu"
    return [Backend(name, faiss.__version__, search, _arrays_on_host, peer="faiss")]


def _open_cuvs_ivf_pq(material: Material, index: Index, folder: Path) -> list[Backend]:
    """cuVS on our centroids, codebook and codes: with its default float32 tables, and float16."""
    _cupy(material)
    import cuvs
    from cuvs.common import Resources

    _use_memory_pool()
    resources = Resources(stream=material.stream)
    searched, read, note = _load_or_build(material, index, folder, resources)
    return [
        Backend(
            name,
            cuvs.__version__,
            _cuvs_search(material.xp, searched, resources, table),
            read,
            peer="cuvs",
            note=note,
        )
        for name, table in (("cuvs ivf_pq", np.float32), ("cuvs ivf_pq (fp16)", np.float16))
    ]


def _load_or_build(
    material: Material, index: Index, folder: Path, resources: Any
) -> tuple[Any, Callable[[Any, int], Hits], str]:
    """cuVS' index, how its results are read, and what is to be said of it."""
    from cuvs.neighbors import ivf_pq

    path = folder / "index.cuvs"
    save_cuvs(index, path)
    try:
        loaded = ivf_pq.load(str(path), resources=resources)
        resources.sync()
        return loaded, _arrays_on_host, "our codes"
    except Exception as error:  # cuVS raises several kinds for a file that it does not like
        params = index.params
        index_params = ivf_pq.IndexParams(
            n_lists=params.n_lists,
            metric="inner_product",
            pq_bits=params.pq_bits,
            pq_dim=params.pq_dim,
        )
        built = ivf_pq.build(index_params, material.vectors, resources=resources)
        resources.sync()
        note = f"built by cuVS, as it refused our file: {first_line(error)}"
        return built, _rows_on_host(material.catalog), note
    finally:
        path.unlink()


def _cuvs_search(
    xp: ModuleType, searched: Any, resources: Any, table: type
) -> Callable[[Any, int, int], Any]:
    from cuvs.neighbors import ivf_pq

    @cache
    def search_params(n_probes: int) -> Any:
        return ivf_pq.SearchParams(
            n_probes=n_probes, lut_dtype=table, internal_distance_dtype=np.float32
        )

    def search(queries: Any, k: int, n_probes: int) -> Any:
        scores = xp.empty((len(queries), k), xp.float32)
        item_ids = xp.empty((len(queries), k), xp.int64)
        ivf_pq.search(
            search_params(n_probes),
            searched,
            queries,
            k,
            neighbors=item_ids,
            distances=scores,
            resources=resources,
        )
        return scores, item_ids

    return search


def _open_cuvs_brute_force(material: Material) -> list[Backend]:
    xp = _cupy(material)
    import cuvs
    from cuvs.common import Resources
    from cuvs.neighbors import brute_force

    _use_memory_pool()
    resources = Resources(stream=material.stream)
    searched = brute_force.build(material.vectors, metric="inner_product", resources=resources)

    def search(queries: Any, k: int, n_probes: int) -> Any:
        scores = xp.empty((len(queries), k), xp.float32)
        rows = xp.empty((len(queries), k), xp.int64)
        brute_force.search(
            searched, queries, k, neighbors=rows, distances=scores, resources=resources
        )
        return scores, rows

    read = _rows_on_host(material.catalog)
    return [Backend("cuvs brute_force", cuvs.__version__, search, read, peer="cuvs", is_exact=True)]


def _open_torch(material: Material) -> list[Backend]:
    """``matmul`` and ``topk``, in float32 (no TF32: PyTorch's default) and in bfloat16."""
    _cupy(material)
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU")
    return [
        Backend(
            f"torch exact ({name})",
            torch.__version__,
            _torch_search(torch, material, dtype),
            _rows_on_host(material.catalog),
            peer="torch",
            is_exact=True,
        )
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    ]


def _torch_search(
    torch: ModuleType, material: Material, dtype: Any
) -> Callable[[Any, int, int], Any]:
    stream = torch.cuda.ExternalStream(material.stream)
    with torch.cuda.stream(stream):
        vectors = torch.from_dlpack(material.vectors).to(dtype)
    n_rows = max(1, SCORE_BYTES // (len(vectors) * vectors.element_size()))

    def search(queries: Any, k: int, n_probes: int) -> Any:
        with torch.cuda.stream(stream):
            chunks = torch.from_dlpack(queries).to(dtype).split(n_rows)
            best = [torch.topk(chunk @ vectors.T, k) for chunk in chunks]
            return (
                torch.cat([part.values for part in best]).float(),
                torch.cat([part.indices for part in best]),
            )

    return search


def _open_cupy(material: Material) -> list[Backend]:
    xp = _cupy(material)
    return [
        Backend(
            "cupy exact",
            xp.__version__,
            lambda queries, k, n_probes: exact_top_k(xp, material.vectors, queries, k),
            _rows_on_host(material.catalog),
            peer="cupy",
            is_exact=True,
            max_batch=SMALL_BATCH,
        )
    ]


def exact_top_k(xp: ModuleType, vectors: Any, queries: Any, k: int) -> tuple[Any, Any]:
    """The ``k`` largest inner products: scores (n, k) float32, best first, and rows of ``vectors``.

    By parts of the items, in bounded memory.
    """
    step = max(1, SCORE_BYTES // (4 * max(1, len(queries))))
    of_parts, rows_of_parts = [], []
    for start in range(0, len(vectors), step):
        scores = queries @ vectors[start : start + step].T
        width = min(k, scores.shape[1])
        best = xp.argpartition(-scores, width - 1, axis=1)[:, :width]
        of_parts.append(xp.take_along_axis(scores, best, axis=1))
        rows_of_parts.append(best + start)
    scores, rows = xp.concatenate(of_parts, axis=1), xp.concatenate(rows_of_parts, axis=1)
    order = xp.argsort(-scores, axis=1)[:, :k]
    return xp.take_along_axis(scores, order, axis=1), xp.take_along_axis(rows, order, axis=1)


EXACT_PEERS: dict[str, Callable[[Material], list[Backend]]] = {
    "cuvs brute_force": _open_cuvs_brute_force,
    "torch exact": _open_torch,
    "cupy exact": _open_cupy,
}
INDEX_PEERS: dict[str, Callable[[Material, Index, Path], list[Backend]]] = {
    "cuvs ivf_pq": _open_cuvs_ivf_pq,
    "faiss gpu": lambda material, index, _: _open_faiss_gpu(material, index, use_cuvs=False),
    "faiss gpu (cuvs)": lambda material, index, _: _open_faiss_gpu(material, index, use_cuvs=True),
    "faiss cpu": lambda _material, index, _: [open_faiss_cpu(index)],
}


def _cupy(material: Material) -> ModuleType:
    if material.xp.__name__ != "cupy":
        raise RuntimeError("runs on a GPU alone, and the device is emulated")
    return material.xp


def _use_memory_pool() -> None:
    """Let cuVS take its working memory from a pool, as its documentation advises for speed."""
    import rmm

    resource = rmm.mr.get_current_device_resource()
    if not isinstance(resource, rmm.mr.CudaAsyncMemoryResource):
        rmm.mr.set_current_device_resource(rmm.mr.CudaAsyncMemoryResource())


def _arrays_on_host(result: Any, k: int) -> Hits:
    scores, item_ids = result
    return _on_host(scores), _on_host(item_ids)


def _rows_on_host(catalog: Catalog) -> Callable[[Any, int], Hits]:
    def read(result: Any, k: int) -> Hits:
        scores, rows = result
        return _on_host(scores), catalog.item_ids(_on_host(rows))

    return read


def _on_host(array: Any) -> np.ndarray:
    """A NumPy, CuPy or Torch array as NumPy's."""
    if hasattr(array, "cpu"):
        import torch

        torch.cuda.synchronize()  # it was made on a stream that is not Torch's current one now
        array = array.cpu().numpy()
    return array.get() if hasattr(array, "get") else np.asarray(array)
