"""Faiss' own IVF-PQ, its fast scan, and both with Faiss' re-ordering by stored vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss

from benchmarks.cpu_peers.built import Built, Setting, product, timed
from benchmarks.cpu_peers.grid import Grid
from benchmarks.cpu_peers.material import Material
from benchmarks.cpu_peers.over_fetch import over_fetching
from merlin_poeem.arrays import Float32, Int64

STORED = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
CLUSTERS = {
    "centroids of length 1": faiss.METRIC_INNER_PRODUCT,  # Faiss' own for the inner product
    "centroids by distance": faiss.METRIC_L2,
}
FAMILIES = {"Faiss IVF-PQ": (8, ""), "Faiss fast scan": (4, "fsr")}
"""Bits of a code, and what the factory calls their layout; codes of 4 bits are twice as many."""


def open_faiss(material: Material, grid: Grid) -> Iterator[Built]:
    """Every form alone, and refined by each kind of stored vectors."""
    for family, (bits, layout) in FAMILIES.items():
        pq_dim = material.code_bytes * 8 // bits
        factory = f"IVF{material.n_lists},PQ{pq_dim}x{bits}{layout}"
        for form, rotation, metric, turning in _forms(material, grid, pq_dim, bits):
            index, more = timed(_train, material, factory, rotation, metric)
            seconds = turning + more
            yield _built(family, "", form, material, grid, index, seconds)
            for dtype in STORED:
                refined, more = timed(_refined, material, index, dtype)
                yield _built(family, dtype, form, material, grid, refined, seconds + more)


def _forms(
    material: Material, grid: Grid, pq_dim: int, bits: int
) -> Iterator[tuple[str, Any, int, float]]:
    """Name, rotation or None, the metric that items are clustered by, the rotation's seconds."""
    if grid.is_quick:
        clusters = next(iter(CLUSTERS))
        yield clusters, None, CLUSTERS[clusters], 0.0
        return
    rotation, turning = timed(_opq, material, pq_dim, bits)
    for clusters, metric in CLUSTERS.items():
        yield clusters, None, metric, 0.0
        yield f"OPQ, {clusters}", rotation, metric, turning


def _opq(material: Material, pq_dim: int, bits: int) -> Any:
    dim = material.vectors.shape[1]
    opq = faiss.OPQMatrix(dim, pq_dim)
    codebook = faiss.ProductQuantizer(dim, pq_dim, bits)
    codebook.cp.min_points_per_centroid = 1
    opq.pq = codebook
    opq.train(material.vectors)
    opq.pq = None  # a bare pointer, needed no more
    return opq


def _train(material: Material, factory: str, rotation: Any, metric: int) -> Any:
    owner = index = faiss.index_factory(material.vectors.shape[1], factory, metric)
    ivf = faiss.downcast_index(owner)
    if isinstance(ivf, faiss.IndexIVFPQ):
        ivf.do_polysemous_training = False  # only renumbers codewords
    ivf.cp.min_points_per_centroid = ivf.pq.cp.min_points_per_centroid = 1
    if rotation is not None:
        index = faiss.IndexPreTransform(rotation, owner)  # which keeps it
    index.train(material.vectors)
    index.add(material.vectors)
    # Whatever the items were clustered by, lists are chosen and items scored by the inner product.
    for part in (index, ivf, faiss.downcast_index(ivf.quantizer)):
        part.metric_type = faiss.METRIC_INNER_PRODUCT
    return index


def _refined(material: Material, index: Any, dtype: str) -> Any:
    stored = faiss.IndexScalarQuantizer(index.d, STORED[dtype], faiss.METRIC_INNER_PRODUCT)
    stored.train(material.vectors)
    stored.add(material.vectors)
    return faiss.IndexRefine(index, stored)


def _built(
    family: str,
    stored: str,
    form: str,
    material: Material,
    grid: Grid,
    index: Any,
    seconds: float,
) -> Built:
    is_refined = bool(stored)
    ivf = faiss.extract_index_ivf(index.base_index if is_refined else index)
    refine = {"refine": grid.refine} if is_refined else {}
    vector_bytes = faiss.downcast_index(index.refine_index).code_size if is_refined else 0

    def find(queries: Float32, wanted: int, setting: Setting) -> Int64:
        ivf.nprobe = setting["n_probes"]
        if is_refined:
            index.k_factor = setting["refine"]
        return index.search(queries, wanted)[1]

    settings = product(n_probes=grid.n_probes, **refine, **grid.extra)
    search = over_fetching(find, material.k)
    return Built(family, stored, form, ivf.code_size, vector_bytes, 0, seconds, settings, search)
