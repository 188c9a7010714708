"""Made-up catalogs for the search benchmarks: item vectors like an item tower's, or uniform ones.

Everything is a function of the seed. Vectors come in chunks, each with a seed of its own, so that
20M items need no more memory than a chunk, and a part of a catalog needs none of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from merlin_poeem import (
    Index,
    ItemCodes,
    IVFPQParams,
    Quantization,
    fit,
    load_index,
    save_index,
)
from merlin_poeem.arrays import Float32, Int32, Int64, normalize
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.fit import import_faiss
from merlin_poeem.quantization.item_codes import unpack_codes

Kind = Literal["clustered", "uniform"]

KINDS: tuple[str, ...] = get_args(Kind)

CHUNK_ROWS = 1 << 18
FIRST_ID = 2**40
ID_STEP = 7

# Clusters: a few hundred items each on average, sizes by a power of the rank; the spread within
# one falls by a power of the axis, each cluster along axes of its own; lengths differ a little.
ITEMS_PER_CLUSTER = 400
MAX_CLUSTERS = 10_000
SIZE_POWER = 0.8
SPREAD = 0.6
SPREAD_POWER = 0.5
LENGTH_SIGMA = 0.1
# A query lies this far from an item; item r is asked for in proportion to r ** −0.5.
QUERY_NOISE = 0.3
POPULARITY = 2.0

TRAINING_VECTORS_PER_CENTROID = 64

# Streams of random numbers, told apart by the second number of the seed.
_CLUSTERS, _ITEMS, _QUERIES = range(3)


@dataclass(frozen=True)
class Catalog:
    """Items and the queries that are put to them; the same for the same four values."""

    kind: Kind
    n_items: int
    dim: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}; got {self.kind!r}")

    def chunks(self) -> Iterator[Float32]:
        """The items in order, (at most CHUNK_ROWS, dim) float32 at a time."""
        for start in range(0, self.n_items, CHUNK_ROWS):
            yield self._chunk(start // CHUNK_ROWS)

    def first(self, n_items: int) -> Float32:
        """(min(n_items, self.n_items), dim) float32: as good a sample as any, rows being drawn
        independently."""
        rows = [self._chunk(i) for i in range(-(-min(n_items, self.n_items) // CHUNK_ROWS))]
        return np.concatenate(rows)[:n_items]

    def queries(self, n_queries: int, *, part: int = 0) -> Float32:
        """(n_queries, dim) float32 near items, popular ones more often; other ones per ``part``."""
        rng = self._generator(_QUERIES, part)
        items = self._chunk(0)
        ranks = (rng.random(n_queries) ** POPULARITY * len(items)).astype(np.int64)
        noise = normalize(rng.standard_normal((n_queries, self.dim), np.float32))
        return np.asarray(items[ranks] + np.float32(QUERY_NOISE) * noise, np.float32)

    def item_ids(self, rows: Int64 | None = None) -> Int64:
        """The ids of ``rows``, or of all items: (n,) int64, above 2**40, with gaps."""
        rows = np.arange(self.n_items) if rows is None else rows
        return FIRST_ID + ID_STEP * rows

    def _generator(self, stream: int, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, part))

    def _chunk(self, number: int) -> Float32:
        rng = self._generator(_ITEMS, number)
        n = min(CHUNK_ROWS, self.n_items - number * CHUNK_ROWS)
        vectors = rng.standard_normal((n, self.dim), np.float32)
        if self.kind == "uniform":
            return normalize(vectors)
        clusters = rng.choice(len(self._centres), n, p=self._weights)
        vectors *= self._spreads[clusters]
        vectors += self._centres[clusters]
        lengths = rng.lognormal(0, LENGTH_SIGMA, (n, 1)).astype(np.float32)
        return np.asarray(normalize(vectors) * lengths, np.float32)

    @cached_property
    def _centres(self) -> Float32:
        """(n_clusters, dim) of unit length."""
        n_clusters = max(1, min(self.n_items // ITEMS_PER_CLUSTER, MAX_CLUSTERS))
        rng = self._generator(_CLUSTERS, 0)
        return normalize(rng.standard_normal((n_clusters, self.dim), np.float32))

    @cached_property
    def _weights(self) -> np.ndarray:
        """(n_clusters,) float64, the share of the items in each."""
        weights = np.arange(1, len(self._centres) + 1) ** -SIZE_POWER
        return np.asarray(weights / weights.sum())

    @cached_property
    def _spreads(self) -> Float32:
        """(n_clusters, dim), the standard deviation along each axis; SPREAD is their length."""
        rng = self._generator(_CLUSTERS, 1)
        falling = np.arange(1, self.dim + 1) ** -SPREAD_POWER
        shuffled = rng.permuted(np.tile(falling, (len(self._centres), 1)), axis=1)
        return np.asarray(SPREAD * shuffled / np.linalg.norm(falling), np.float32)


def build_index(
    catalog: Catalog,
    *,
    code_bytes: int,
    n_lists: int,
    pq_bits: int = 8,
    item_scales: bool = False,
    folder: Path,
) -> Index:
    """The catalog as an inner-product index, trained on a sample; kept in ``folder`` for later.

    Unless there are to be ``item_scales``, a byte beyond ``code_bytes``, it is without what others
    that are timed beside ours have not: these, and list lengths.

    Raises ``ImportError`` where Faiss, which trains and encodes, is not installed.
    """
    c = catalog
    name = f"{c.kind}-{c.n_items}x{c.dim}-seed{c.seed}-{code_bytes}B{pq_bits}-{n_lists}lists"
    name += "-scales" if item_scales else ""
    path = folder / name
    if path.exists():
        return load_index(path)
    params = IVFPQParams(n_lists=n_lists, pq_dim=code_bytes * 8 // pq_bits, pq_bits=pq_bits)
    n_sample = TRAINING_VECTORS_PER_CENTROID * max(n_lists, params.pq_book_size)
    sample = catalog.first(n_sample)
    quantization = fit(params, sample, rotation=False, item_scales=item_scales, seed=catalog.seed)
    item_codes = encode(quantization, catalog)
    index = Index.from_codes(params, quantization, item_codes, info={"catalog": name})
    if not item_scales:
        index = index.without_list_lengths()
    save_index(index, path)
    return index


def encode(quantization: Quantization, catalog: Catalog) -> ItemCodes:
    """Lists, codes and scales of all items, by Faiss: the NumPy definition would take minutes.

    Where two codewords are about equally near, it may take the other one.
    """
    faiss = import_faiss()
    coarse = faiss.IndexFlatL2(quantization.dim)
    coarse.add(quantization.coarse_centroids)
    pq = faiss.ProductQuantizer(quantization.dim, quantization.pq_dim, quantization.pq_bits)
    faiss.copy_array_to_vector(quantization.codebook.ravel(), pq.centroids)
    encoded = [_encode_chunk(quantization, coarse, pq, chunk) for chunk in catalog.chunks()]
    list_ids, codes = (np.concatenate(parts) for parts in zip(*encoded, strict=True))
    scales = None
    if quantization.has_scales:
        chunks = zip(catalog.chunks(), encoded, strict=True)
        parts = [coding.scales_of(quantization, chunk, *coded) for chunk, coded in chunks]
        scales = np.concatenate(parts)
    return ItemCodes(catalog.item_ids(), list_ids, codes, scales)


def _encode_chunk(
    quantization: Quantization, coarse: Any, pq: Any, vectors: Float32
) -> tuple[Int32, np.ndarray]:
    x_rot = np.ascontiguousarray(quantization.rotate(vectors))
    list_ids = coarse.search(x_rot, 1)[1][:, 0].astype(np.int32)
    packed = pq.compute_codes(x_rot - quantization.coarse_centroids[list_ids])
    return list_ids, unpack_codes(packed, quantization.pq_dim, quantization.pq_bits)
