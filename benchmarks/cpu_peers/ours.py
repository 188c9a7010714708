"""Our index by the Faiss backend, without and with a second look at stored vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.cpu_peers.built import Built, Setting, product, timed
from benchmarks.cpu_peers.grid import Grid
from benchmarks.cpu_peers.material import NO_ROW, Batch, Material
from merlin_poeem import Index, IVFPQParams, Quantization, fit, open_searcher
from merlin_poeem.arrays import Int64

OURS = "ours"
STORED = {"float16": 2, "int8": 1}
"""Bytes a value."""
ROW_SCALE_BYTES = 4


def open_ours(material: Material, grid: Grid) -> Iterator[Built]:
    """Codes and item scales alone."""
    for form, params, quantization, seconds in _quantizations(material, grid):
        index, more = timed(_encode, material, params, quantization)
        settings = product(n_probes=grid.n_probes)
        yield _built("", form, material, index, 0, seconds + more, settings)


def open_ours_refined(material: Material, grid: Grid) -> Iterator[Built]:
    """The same, with the items' vectors in few bytes: the best candidates scored by them."""
    for form, params, quantization, seconds in _quantizations(material, grid):
        for dtype, value_bytes in STORED.items():
            index, more = timed(_encode, material, params, quantization, store_vectors=dtype)
            vector_bytes = value_bytes * index.dim + ROW_SCALE_BYTES
            settings = product(n_probes=grid.n_probes, refine=grid.refine)
            yield _built(dtype, form, material, index, vector_bytes, seconds + more, settings)


def _quantizations(
    material: Material, grid: Grid
) -> Iterator[tuple[str, IVFPQParams, Quantization, float]]:
    """The one trained with the towers, or else ones fitted to the vectors, and their seconds."""
    if material.learned is not None:
        yield "joint", material.learned.params, material.learned.quantization, 0.0
        return
    for form, rotation in {"not rotated": False, "rotated": True}.items():
        if not (grid.is_quick and rotation):
            yield form, *_fitted(material, rotation)


@lru_cache(maxsize=2)
def _fitted(material: Material, rotation: bool) -> tuple[IVFPQParams, Quantization, float]:
    """Once for the codes alone and for those with vectors beside them."""
    params = IVFPQParams(n_lists=material.n_lists, pq_dim=material.code_bytes)
    quantization, seconds = timed(fit, params, material.vectors, rotation=rotation)
    return params, quantization, seconds


def _encode(
    material: Material, params: IVFPQParams, quantization: Quantization, **stored: Any
) -> Index:
    rows = np.arange(len(material.vectors))
    return Index.from_vectors(params, quantization, rows, material.vectors, **stored)


def _built(
    stored: str,
    form: str,
    material: Material,
    index: Index,
    vector_bytes: float,
    seconds: float,
    settings: tuple[Setting, ...],
) -> Built:
    searcher, k = open_searcher(index, "faiss"), material.k
    code_bytes = material.code_bytes + (index.scales is not None)

    def search(batch: Batch, setting: Setting) -> Int64:
        found = searcher.search(batch.queries, k=k, exclude=batch.exclude, **setting)
        return found.padded(k, fill_id=NO_ROW)[1]

    return Built(OURS, stored, form, code_bytes, vector_bytes, 0, seconds, settings, search)
