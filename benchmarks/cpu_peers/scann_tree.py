"""ScaNN: a tree of anisotropic 4-bit codes (Guo et al., ICML 2020), re-ordered by its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.cpu_peers.built import Built, Setting, product, timed
from benchmarks.cpu_peers.grid import Grid
from benchmarks.cpu_peers.material import NO_ROW, Material
from benchmarks.cpu_peers.over_fetch import Find, over_fetching
from merlin_poeem.arrays import Float32, Int64

BITS = 4
# ScaNN's default, under which a code is the nearest one, and its documentation's.
THRESHOLDS = {"nearest codes": float("nan"), "anisotropic .2": 0.2}
STORED = {"bfloat16": 2, "int8": 1, "float32": 4}
"""Bytes a value."""
MOST_QUERIES_A_THREAD = 256


def open_scann(material: Material, grid: Grid) -> Iterator[Built]:
    """A method for each kind of stored vectors; ``ImportError`` where ScaNN is not installed."""
    import scann

    for dtype, value_bytes in STORED.items():
        for form, threshold in list(THRESHOLDS.items())[-1 if grid.is_quick else 0 :]:
            kind = getattr(scann.ReorderType, dtype.upper())
            searcher, seconds = timed(_build, scann, material, grid, threshold, kind)
            vector_bytes = value_bytes * material.vectors.shape[1]
            yield Built(
                "ScaNN",
                dtype,
                form,
                material.code_bytes,
                vector_bytes,
                0,
                seconds,
                product(n_probes=grid.n_probes, refine=grid.refine, **grid.extra),
                over_fetching(_find(searcher, grid.threads), material.k),
            )


def _build(scann: Any, material: Material, grid: Grid, threshold: float, kind: Any) -> Any:
    n_items, dim = material.vectors.shape
    n_blocks = material.code_bytes * 8 // BITS
    if dim % n_blocks:
        raise ValueError(f"dim: expected a multiple of {n_blocks}, got {dim}")
    builder = scann.scann_ops_pybind.builder(material.vectors, material.k, "dot_product")
    builder.set_n_training_threads(grid.threads)
    # ScaNN's own least size of a leaf, 50, spoils its lists where a catalog is small.
    builder.tree(material.n_lists, 1, training_sample_size=n_items, min_partition_size=1)
    builder.score_ah(dim // n_blocks, anisotropic_quantization_threshold=threshold)
    builder.reorder(material.k, quantize=kind)
    searcher = builder.build()
    searcher.set_num_threads(grid.threads)
    return searcher


def _find(searcher: Any, threads: int) -> Find:
    def find(queries: Float32, wanted: int, setting: Setting) -> Int64:
        rows, scores = searcher.search_batched_parallel(
            queries,
            final_num_neighbors=wanted,
            pre_reorder_num_neighbors=wanted * setting["refine"],
            leaves_to_search=setting["n_probes"],
            batch_size=min(MOST_QUERIES_A_THREAD, -(-len(queries) // threads)),
        )
        return np.where(np.isfinite(scores), rows.astype(np.int64), NO_ROW)

    return find
