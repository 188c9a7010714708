"""cuVS beside our search: its IVF-PQ on our codes, and its exact search."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.search_gpu.backend import Backend, Hits, first_line, read_arrays, read_rows
from benchmarks.search_gpu.material import Material
from merlin_poeem import Index
from merlin_poeem.convert.cuvs import save_cuvs


def open_cuvs_ivf_pq(material: Material, index: Index, folder: Path) -> list[Backend]:
    """cuVS on our centroids, codebook and codes: with its default float32 tables, and float16."""
    material.cupy()
    import cuvs
    from cuvs.common import Resources

    _use_memory_pool()
    resources = Resources(stream=material.stream)
    searched, read, note = _load_or_build(material, index, folder, resources)
    return [
        Backend(
            name,
            cuvs.__version__,
            _ivf_pq_search(material.xp, searched, resources, table),
            read,
            peer="cuvs",
            note=note,
        )
        for name, table in (("cuvs ivf_pq", np.float32), ("cuvs ivf_pq (fp16)", np.float16))
    ]


def open_cuvs_brute_force(material: Material) -> list[Backend]:
    """Exact search of the float vectors."""
    xp = material.cupy()
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

    read = read_rows(material.catalog)
    return [Backend("cuvs brute_force", cuvs.__version__, search, read, peer="cuvs", is_exact=True)]


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
        return loaded, read_arrays, "our codes"
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
        return built, read_rows(material.catalog), note
    finally:
        path.unlink()


def _ivf_pq_search(
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


def _use_memory_pool() -> None:
    """Let cuVS take its working memory from a pool, as its documentation advises for speed."""
    import rmm

    resource = rmm.mr.get_current_device_resource()
    if not isinstance(resource, rmm.mr.CudaAsyncMemoryResource):
        rmm.mr.set_current_device_resource(rmm.mr.CudaAsyncMemoryResource())
