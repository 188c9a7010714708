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
from benchmarks.search_gpu.memory_pool import use_memory_pool
from merlin_poeem import Index
from merlin_poeem.convert.cuvs import padded_centres, rotation_matrix, save_cuvs

HALVES = {"lut_dtype": np.float16, "internal_distance_dtype": np.float16}
# cuVS' settings: float32 throughout, as it does when nothing is said, and ever less exact ones.
VARIANTS: dict[str, dict[str, Any]] = {
    "cuvs ivf_pq": {"lut_dtype": np.float32, "internal_distance_dtype": np.float32},
    "cuvs ivf_pq (fp16)": {"lut_dtype": np.float16, "internal_distance_dtype": np.float32},
    "cuvs ivf_pq (fp16, fp16 distances)": HALVES,
    "cuvs ivf_pq (all fp16)": {**HALVES, "coarse_search_dtype": np.float16},
    "cuvs ivf_pq (all fp16, large batches)": {
        **HALVES,
        "coarse_search_dtype": np.float16,
        "max_internal_batch_size": 16384,
    },
}


def open_cuvs_ivf_pq(material: Material, index: Index, folder: Path) -> list[Backend]:
    """cuVS on our centroids, codebook and codes, with each of its settings that it knows.

    Newer releases link kernels when a setting and k are first searched: every search is made once
    before it is timed.
    """
    material.cupy()
    import cuvs
    from cuvs.common import Resources

    use_memory_pool()
    resources = Resources(stream=material.stream)
    searched, read, note = _load_or_build(material, index, folder, resources)
    return [
        Backend(
            name,
            cuvs.__version__,
            _ivf_pq_search(material.xp, searched, resources, variant),
            read,
            peer="cuvs",
            note=note,
        )
        for name, variant in VARIANTS.items()
        if _is_known(name, variant)
    ]


def open_cuvs_brute_force(material: Material) -> list[Backend]:
    """Exact search of the float vectors, as they are and in half precision."""
    material.cupy()
    import cuvs
    from cuvs.common import Resources

    use_memory_pool()
    resources = Resources(stream=material.stream)
    return [
        Backend(
            name,
            cuvs.__version__,
            _brute_force_search(material, resources, dtype),
            read_rows(material.catalog),
            peer="cuvs",
            is_exact=True,
        )
        for name, dtype in (
            ("cuvs brute_force", np.float32),
            ("cuvs brute_force (fp16)", np.float16),
        )
    ]


def _brute_force_search(
    material: Material, resources: Any, dtype: type
) -> Callable[[Any, int, int], Any]:
    from cuvs.neighbors import brute_force

    xp = material.xp
    vectors = material.vectors.astype(dtype, copy=False)
    searched = brute_force.build(vectors, metric="inner_product", resources=resources)

    def search(queries: Any, k: int, n_probes: int, kept: Any = vectors) -> Any:
        scores = xp.empty((len(queries), k), xp.float32)
        rows = xp.empty((len(queries), k), xp.int64)
        given = queries.astype(dtype, copy=False)
        brute_force.search(
            searched, given, k, neighbors=rows, distances=scores, resources=resources
        )
        return scores, rows

    return search


def _load_or_build(
    material: Material, index: Index, folder: Path, resources: Any
) -> tuple[Any, Callable[[Any, int], Hits], str]:
    """cuVS' index, how its results are read, and what is to be said of it.

    A file carries our codes. ``build_precomputed`` takes centroids and codebook alone, and cuVS
    then chooses lists and codes itself: it comes second.
    """
    ways = {
        "our codes": _load,
        "our centroids and codebook, codes by cuVS": _build_precomputed,
        "built by cuVS": _build,
    }
    refused = ""
    for note, way in ways.items():
        try:
            searched, read = way(material, index, folder, resources)
            resources.sync()
        except Exception as error:  # cuVS raises several kinds for what it does not like
            refused = f", as it refused: {first_line(error)}"
            continue
        return searched, read, note + refused
    raise RuntimeError(f"nothing of ours was taken{refused}")


def _load(
    material: Material, index: Index, folder: Path, resources: Any
) -> tuple[Any, Callable[[Any, int], Hits]]:
    from cuvs.neighbors import ivf_pq

    path = folder / "index.cuvs"
    save_cuvs(index, path)
    try:
        loaded = ivf_pq.load(str(path), resources=resources)
        resources.sync()
        return loaded, read_arrays
    finally:
        path.unlink()


def _build_precomputed(
    material: Material, index: Index, folder: Path, resources: Any
) -> tuple[Any, Callable[[Any, int], Hits]]:
    from cuvs.neighbors import ivf_pq

    xp, quantization = material.xp, index.quantization
    matrices = (
        quantization.codebook.transpose(0, 2, 1),
        padded_centres(quantization),
        quantization.coarse_centroids,
        rotation_matrix(quantization),
    )
    # cuVS keeps references to these, not copies.
    held = [xp.asarray(np.ascontiguousarray(matrix)) for matrix in matrices]
    built = ivf_pq.build_precomputed(
        _index_params(ivf_pq, index), index.dim, *held, resources=resources
    )
    item_ids = xp.asarray(material.catalog.item_ids())
    extended = ivf_pq.extend(built, material.vectors, item_ids, resources=resources)

    def read(result: Any, k: int, kept: Any = (held, built)) -> Hits:
        return read_arrays(result, k)

    return extended, read


def _build(
    material: Material, index: Index, folder: Path, resources: Any
) -> tuple[Any, Callable[[Any, int], Hits]]:
    from cuvs.neighbors import ivf_pq

    built = ivf_pq.build(_index_params(ivf_pq, index), material.vectors, resources=resources)
    return built, read_rows(material.catalog)


def _index_params(ivf_pq: ModuleType, index: Index) -> Any:
    params = index.params
    return ivf_pq.IndexParams(
        n_lists=params.n_lists,
        metric="inner_product",
        pq_bits=params.pq_bits,
        pq_dim=params.pq_dim,
    )


def _is_known(name: str, variant: dict[str, Any]) -> bool:
    """Whether the installed release has all parameters of a setting; says so where it has not."""
    from cuvs.neighbors import ivf_pq

    try:
        ivf_pq.SearchParams(n_probes=1, **variant)
    except TypeError as error:
        print(f"missing: {name}: {first_line(error)}")
        return False
    return True


def _ivf_pq_search(
    xp: ModuleType, searched: Any, resources: Any, variant: dict[str, Any]
) -> Callable[[Any, int, int], Any]:
    from cuvs.neighbors import ivf_pq

    @cache
    def search_params(n_probes: int) -> Any:
        return ivf_pq.SearchParams(n_probes=n_probes, **variant)

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
