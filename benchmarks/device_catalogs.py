"""Catalogs made on the device, and their codes: no Faiss, no file, no copy of the vectors.

The items are drawn as those of :mod:`benchmarks.catalogs` are, by the device's own random numbers:
another catalog of the same kind. Centroids and codewords come of a few rounds of k-means there. A
GPU makes 4.3M items and their codes in seconds; with NumPy in its place all of it runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogs import (
    FIRST_ID,
    ID_STEP,
    ITEMS_PER_CLUSTER,
    LENGTH_SIGMA,
    MAX_CLUSTERS,
    POPULARITY,
    QUERY_NOISE,
    SIZE_POWER,
    SPREAD,
    SPREAD_POWER,
    Kind,
)
from merlin_poeem import Index, ItemCodes, IVFPQParams, Quantization
from merlin_poeem.arrays import Float32, Int32, Int64, to_host

CHUNK_ROWS = 1 << 18
# Distances of so many vectors to all centroids at a time.
DISTANCE_BYTES = 1 << 30
TRAINING_VECTORS_PER_CENTROID = 32
LIST_ROUNDS, CODEWORD_ROUNDS = 6, 8
MAX_CODEBOOK_VECTORS = 1 << 16


@dataclass(frozen=True)
class DeviceCatalog:
    """Items and queries on the device of ``xp``; the same for the same values on one library."""

    xp: ModuleType
    kind: Kind
    n_items: int
    dim: int
    seed: int = 0

    @cached_property
    def vectors(self) -> Any:
        """(n_items, dim) float32, all of them."""
        vectors = self.xp.empty((self.n_items, self.dim), np.float32)
        for start in range(0, self.n_items, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, self.n_items)
            vectors[start:stop] = self._draw(start // CHUNK_ROWS, stop - start)
        return vectors

    def chunks(self) -> Iterator[Any]:
        """Views of ``vectors`` in order."""
        for start in range(0, self.n_items, CHUNK_ROWS):
            yield self.vectors[start : start + CHUNK_ROWS]

    def device_queries(self, n_queries: int, *, part: int = 0) -> Any:
        """(n_queries, dim) float32 near items, popular ones more often; other ones per ``part``."""
        xp, rng = self.xp, self._generator(2, part)
        popular = min(CHUNK_ROWS, self.n_items)
        rows = (rng.random(n_queries) ** POPULARITY * popular).astype(np.int64)
        noise = _unit(xp, rng.standard_normal((n_queries, self.dim), np.float32))
        return self.vectors[rows] + np.float32(QUERY_NOISE) * noise

    def queries(self, n_queries: int, *, part: int = 0) -> Float32:
        """The same in host memory."""
        return np.asarray(to_host(self.device_queries(n_queries, part=part)))

    def item_ids(self, rows: Int64 | None = None) -> Int64:
        """The ids of ``rows``, or of all items: (n,) int64, above 2**40, with gaps."""
        rows = np.arange(self.n_items) if rows is None else rows
        return FIRST_ID + ID_STEP * rows

    def _generator(self, stream: int, part: int) -> Any:
        return self.xp.random.default_rng(self.seed * 1_000_003 + stream * 10_007 + part)

    def _draw(self, number: int, n: int) -> Any:
        xp, rng = self.xp, self._generator(1, number)
        vectors = rng.standard_normal((n, self.dim), np.float32)
        if self.kind == "uniform":
            return _unit(xp, vectors)
        centres, spreads, shares = self._clusters
        clusters = xp.searchsorted(shares, rng.random(n)).clip(0, len(centres) - 1)
        vectors = vectors * spreads[clusters] + centres[clusters]
        lengths = xp.exp(np.float32(LENGTH_SIGMA) * rng.standard_normal((n, 1), np.float32))
        return (_unit(xp, vectors) * lengths).astype(np.float32)

    @cached_property
    def _clusters(self) -> tuple[Any, Any, Any]:
        """Centres and spreads (n_clusters, dim), and the running sum of the clusters' shares."""
        n = max(1, min(self.n_items // ITEMS_PER_CLUSTER, MAX_CLUSTERS))
        rng = np.random.default_rng(self.seed)
        centres = rng.standard_normal((n, self.dim), np.float32)
        falling = np.arange(1, self.dim + 1) ** -SPREAD_POWER
        spreads = rng.permuted(np.tile(falling, (n, 1)), axis=1)
        spreads = (SPREAD * spreads / np.linalg.norm(falling)).astype(np.float32)
        weights = np.arange(1, n + 1) ** -SIZE_POWER
        shares = np.cumsum(weights / weights.sum())
        xp = self.xp
        return _unit(xp, xp.asarray(centres)), xp.asarray(spreads), xp.asarray(shares)


def build_device_index(
    catalog: DeviceCatalog, *, code_bytes: int, n_lists: int, pq_bits: int = 8
) -> Index:
    """The catalog as an inner-product index, trained and encoded on its device.

    Without what others that are timed beside ours have not: item scales, and list lengths.
    """
    params = IVFPQParams(n_lists=n_lists, pq_dim=code_bytes * 8 // pq_bits, pq_bits=pq_bits)
    centroids, codebook = _train(catalog, params)
    parts = [_encode(catalog.xp, chunk, centroids, codebook) for chunk in _pieces(catalog, n_lists)]
    list_ids, codes = (np.concatenate(of_parts) for of_parts in zip(*parts, strict=True))
    quantization = Quantization(to_host(centroids), to_host(codebook))
    item_codes = ItemCodes(catalog.item_ids(), list_ids, codes)
    c = catalog
    name = f"device-{c.kind}-{c.n_items}x{c.dim}-seed{c.seed}-{code_bytes}B{pq_bits}-{n_lists}lists"
    return Index.from_codes(
        params, quantization, item_codes, info={"catalog": name}
    ).without_list_lengths()


def nearest(xp: ModuleType, vectors: Any, centroids: Any) -> Any:
    """(n,) int64: the nearest of ``centroids`` to each vector, in bounded memory."""
    halves = (centroids * centroids).sum(axis=1) / 2
    step = max(1, DISTANCE_BYTES // (4 * len(centroids)))
    parts = [
        (halves - vectors[start : start + step] @ centroids.T).argmin(axis=1)
        for start in range(0, len(vectors), step)
    ]
    return xp.concatenate(parts)


def k_means(xp: ModuleType, vectors: Any, n: int, rounds: int, seed: int) -> Any:
    """(n, dim) float32 centroids; one that loses all its vectors stays where it was."""
    rows = np.random.default_rng(seed).choice(len(vectors), n, replace=len(vectors) < n)
    centroids = vectors[xp.asarray(rows)]
    for _ in range(rounds):
        labels = nearest(xp, vectors, centroids)
        counts = xp.bincount(labels, minlength=n)
        sums = [xp.bincount(labels, weights=column, minlength=n) for column in vectors.T]
        means = xp.stack(sums, axis=1) / xp.maximum(counts, 1)[:, None]
        centroids = xp.where(counts[:, None] > 0, means, centroids).astype(np.float32)
    return centroids


def _train(catalog: DeviceCatalog, params: IVFPQParams) -> tuple[Any, Any]:
    """Centroids, and codewords of the residuals: (pq_dim, pq_book_size, pq_len)."""
    xp, seed = catalog.xp, catalog.seed
    n_sample = TRAINING_VECTORS_PER_CENTROID * max(params.n_lists, params.pq_book_size)
    sample = catalog.vectors[:n_sample]  # as good as any: rows are drawn independently
    centroids = k_means(xp, sample, params.n_lists, LIST_ROUNDS, seed)
    sample = sample[:MAX_CODEBOOK_VECTORS]
    residuals = sample - centroids[nearest(xp, sample, centroids)]
    parts = xp.split(residuals, params.pq_dim, axis=1)
    books = [
        k_means(xp, xp.ascontiguousarray(part), params.pq_book_size, CODEWORD_ROUNDS, seed + m)
        for m, part in enumerate(parts)
    ]
    return centroids, xp.stack(books)


def _pieces(catalog: DeviceCatalog, n_lists: int) -> Iterator[Any]:
    step = max(1, min(CHUNK_ROWS, DISTANCE_BYTES // (4 * n_lists)))
    for start in range(0, catalog.n_items, step):
        yield catalog.vectors[start : start + step]


def _encode(
    xp: ModuleType, vectors: Any, centroids: Any, codebook: Any
) -> tuple[Int32, NDArray[np.uint8]]:
    """Lists (n,) int32 and codes (n, pq_dim) uint8 of ``vectors``, in host memory."""
    lists = nearest(xp, vectors, centroids)
    parts = xp.split(vectors - centroids[lists], len(codebook), axis=1)
    codes = [
        nearest(xp, xp.ascontiguousarray(part), book).astype(np.uint8)
        for part, book in zip(parts, codebook, strict=True)
    ]
    return to_host(lists.astype(np.int32)), to_host(xp.stack(codes, axis=1))


def _unit(xp: ModuleType, vectors: Any) -> Any:
    lengths = xp.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return vectors / xp.maximum(lengths, np.float32(1e-12))
