"""usearch's HNSW: a graph over the vectors themselves, in float16 or int8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_peers.built import Built, Setting, product, timed
from benchmarks.cpu_peers.grid import Grid
from benchmarks.cpu_peers.material import NO_ROW, Material
from benchmarks.cpu_peers.over_fetch import Find, over_fetching
from merlin_poeem.arrays import Float32, Int64

EXPANSION_ADD = 128
LARGEST_INT8 = 127
KEY_BYTES = 8
# usearch's own int8 makes every vector one of length 1, which the inner product does not survive.
STORED = {"float16": "f16", "int8": "i8"}


def open_usearch(material: Material, grid: Grid) -> Iterator[Built]:
    """A method for each kind of vectors; ``ImportError`` where usearch is not installed."""
    from usearch.index import Index

    vectors = of_equal_lengths(material.vectors)
    for dtype, name in STORED.items():
        for connectivity in grid.connectivity:
            graph = Index(
                ndim=vectors.shape[1],
                metric="ip",
                dtype=name,
                connectivity=connectivity,
                expansion_add=EXPANSION_ADD,
            )
            keys, stored = np.arange(len(vectors)), _as_stored(vectors, dtype)
            _, seconds = timed(graph.add, keys, stored, threads=grid.threads)
            vector_bytes = stored.itemsize * stored.shape[1]
            yield Built(
                "usearch HNSW",
                dtype,
                f"connectivity {connectivity}",
                0,
                vector_bytes,
                graph.serialized_length / len(graph) - vector_bytes - KEY_BYTES,
                seconds,
                product(expansion=grid.expansion, **grid.extra),
                over_fetching(_find(graph, dtype, grid.threads), material.k),
            )


def of_equal_lengths(vectors: Float32) -> Float32:
    """(n, dim + 1): one more coordinate makes all as long as the longest.

    A query's is 0, so that its inner products stay as they are. By the inner product of vectors of
    many lengths a graph's long ones draw all links to themselves, and much is never found.
    """
    squares = np.square(vectors).sum(axis=1)
    missing = np.sqrt(squares.max() - squares)
    return np.concatenate([vectors, missing[:, None]], axis=1)


def _find(graph: Any, dtype: str, threads: int) -> Find:
    def find(queries: Float32, wanted: int, setting: Setting) -> Int64:
        graph.expansion_search = max(setting["expansion"], wanted)
        longer = np.pad(queries, ((0, 0), (0, 1)))
        found = graph.search(_as_stored(longer, dtype), wanted, threads=threads)
        exists = np.arange(wanted) < np.asarray(found.counts)[:, None]
        return np.where(exists, found.keys.astype(np.int64), NO_ROW)

    return find


def _as_stored(vectors: Float32, dtype: str) -> NDArray[Any]:
    """Float16, or int8 by one scale for all, so that lengths stay what they are to each other."""
    if dtype == "float16":
        return vectors.astype(np.float16)
    return np.rint(vectors * (LARGEST_INT8 / np.abs(vectors).max())).astype(np.int8)
