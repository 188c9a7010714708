"""Faiss beside our search: on the CPU, where it is our own other backend, and on the GPU."""

from __future__ import annotations

from typing import Any

from benchmarks.search_gpu.backend import SMALL_BATCH, Backend, read_arrays, read_candidates
from benchmarks.search_gpu.material import Material
from merlin_poeem import Index
from merlin_poeem.convert.faiss import to_faiss_gpu


def open_faiss_cpu(index: Index) -> Backend:
    """Our own CPU backend."""
    import faiss

    from merlin_poeem.search.faiss.searcher import FaissSearcher

    searcher = FaissSearcher(index)
    return Backend(
        "faiss cpu",
        faiss.__version__,
        lambda queries, k, n_probes: searcher.search(queries, k=k, n_probes=n_probes),
        read_candidates,
        peer="faiss",
        on_device=False,
        max_batch=SMALL_BATCH,
    )


def open_faiss_gpu(material: Material, index: Index, use_cuvs: bool) -> list[Backend]:
    """Our codes in Faiss' own kernels, or in those that it takes from cuVS."""
    xp = material.cupy()
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
    return [Backend(name, faiss.__version__, search, read_arrays, peer="faiss")]
