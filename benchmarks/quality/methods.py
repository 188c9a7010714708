"""What is compared on a trial: exact search, the learned index, and what Faiss builds afterwards.

All of them answer the same queries with up to 100 items and without the excluded ones. Those that
have no such filter of their own are asked for so many more that dropping leaves enough.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np

from benchmarks.quality.lists import Lists, dead_codewords
from benchmarks.quality.relevance import MANY
from benchmarks.quality.trial import Trial
from merlin_poeem import Candidates, Index, open_searcher
from merlin_poeem.arrays import Float32, Int64, normalize
from workflows.comparison import faiss_index

CHUNK_QUERIES = 1024
SIZES = (4, 8, 16)
# (pq_dim, pq_bits): 8 bytes an item, 4 in two forms, 16.
FORMS = ((8, 8), (8, 4), (4, 8), (16, 8))
Search = Callable[[int], Candidates]


@dataclass(frozen=True, eq=False)
class Method:
    """One way to search the items of a trial."""

    name: str
    form: str
    """``<pq_dim>x<pq_bits>``, or ``float`` where items are scored by their float vectors."""
    bytes_per_item: float
    search: Search
    """n_probes → the results of all queries."""
    lists: Lists | None
    """None where every item is scored."""
    build_seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def exact(trial: Trial) -> Method:
    """Every item's float vector scored."""
    flat = faiss.IndexFlatIP(trial.item_vectors.shape[1])
    flat.add(trial.item_vectors)
    n_bytes = 4 * trial.item_vectors.shape[1]
    return Method(
        f"exact {of_vectors(trial)}", "float", n_bytes, lambda _: _search_flat(flat, trial), None
    )


def learned(trial: Trial, index: Index) -> Method:
    """The index that the model learned."""
    return _quantized(trial.name.variant, trial, index, trial.facts["export_seconds"])


def learned_by_inner_product(trial: Trial, index: Index) -> Method:
    """The same codes, their reconstructions not normalised."""
    name = f"{trial.name.variant}, by inner product"
    same_codes = index.with_metric("inner_product")
    return _quantized(name, trial, same_codes, trial.facts["export_seconds"])


def built_by_faiss(trial: Trial, sizes: tuple[int, ...]) -> Iterator[Method]:
    """IVF-PQ and OPQ+IVF-PQ, clustered afterwards from the float vectors; ``sizes`` in bytes."""
    n_lists = trial.facts["n_lists"]
    for pq_dim, pq_bits in (form for form in FORMS if math.prod(form) // 8 in sizes):
        ivf_pq = f"IVF{n_lists},PQ{pq_dim}x{pq_bits}"
        for name, factory in (("IVF-PQ", ivf_pq), ("OPQ+IVF-PQ", f"OPQ{pq_dim},{ivf_pq}")):
            start = time.perf_counter()
            index = faiss_index(trial.item_ids, trial.item_vectors, factory)
            seconds = time.perf_counter() - start
            yield _quantized(f"Faiss {name} {of_vectors(trial)}", trial, index, seconds)


def learned_lists(trial: Trial, index: Index) -> Method:
    """The learned lists with float vectors in them."""
    centroids = index.quantization.coarse_centroids
    if index.params.metric == "cosine":
        centroids = normalize(centroids)
    rows = index.rows_of(trial.item_ids)
    return _lists_only(
        f"lists of {trial.name.variant}",
        trial,
        index.quantization.rotate_back(centroids),
        index.list_ids[rows],
    )


def kmeans_lists(trial: Trial) -> Method:
    """Faiss' clusters of the float vectors with the same vectors in them.

    Those for the inner product: without codes, they find more than clusters by distance do.
    """
    dim = trial.item_vectors.shape[1]
    built = faiss.index_factory(
        dim, f"IVF{trial.facts['n_lists']},Flat", faiss.METRIC_INNER_PRODUCT
    )
    faiss.downcast_index(built).cp.min_points_per_centroid = 1
    start = time.perf_counter()
    built.train(trial.item_vectors)
    seconds = time.perf_counter() - start
    centroids = built.quantizer.reconstruct_n(0, built.nlist)
    list_ids = built.quantizer.search(trial.item_vectors, 1)[1][:, 0]
    name = f"k-means lists {of_vectors(trial)}"
    return _lists_only(name, trial, centroids, list_ids, seconds)


def of_vectors(trial: Trial) -> str:
    """Which float vectors something was built from."""
    return f"of {trial.name.variant} vectors"


def without_excluded(
    find: Callable[[Float32, int], tuple[Float32, Int64]], trial: Trial
) -> Candidates:
    """The ``MANY`` best of every query; ``find(queries, k)`` gives scores and rows, best first.

    Rows are positions in ``trial.item_ids``; a row below 0 or a score that is no number is no
    result. It is asked for ``MANY`` and as many more as the longest list of excluded items.
    """
    exclude = trial.exclude
    longest = 0 if exclude is None else int(exclude.lengths.max(initial=0))
    k = min(MANY + longest, len(trial.item_ids))
    results = []
    for start in range(0, len(trial.queries), CHUNK_QUERIES):
        found = find(trial.queries[start : start + CHUNK_QUERIES], k)
        for i, (scores, rows) in enumerate(zip(*found, strict=True), start):
            is_kept = (rows >= 0) & np.isfinite(scores)
            item_ids = trial.item_ids[rows]
            if exclude is not None:
                is_kept &= ~np.isin(item_ids, exclude.row(i))
            kept = np.flatnonzero(is_kept)[:MANY]
            results.append((scores[kept], item_ids[kept]))
    return Candidates.from_rows(results)


def _quantized(name: str, trial: Trial, index: Index, build_seconds: float) -> Method:
    params = index.params
    searcher = open_searcher(index, "faiss")
    return Method(
        name,
        f"{params.pq_dim}x{params.pq_bits}",
        params.pq_dim * params.pq_bits / 8 + (index.scales is not None),
        lambda n_probes: searcher.search(
            trial.queries, k=MANY, n_probes=n_probes, exclude=trial.exclude
        ),
        Lists.of(index, trial.queries),
        build_seconds,
        {"dead_codewords": dead_codewords(index.codes, params.pq_book_size)},
    )


def _lists_only(
    name: str, trial: Trial, centroids: Float32, list_ids: Int64, build_seconds: float = 0.0
) -> Method:
    """Given lists, each visited by the inner product with its centroid, searched exactly."""
    n_lists, dim = centroids.shape
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(np.ascontiguousarray(centroids))
    flat = faiss.IndexIVFFlat(quantizer, dim, n_lists, faiss.METRIC_INNER_PRODUCT)
    # Bare pointers: the arrays must have names, so that they are still there.
    vectors, rows = trial.item_vectors, np.arange(len(trial.item_ids))
    list_ids = list_ids.astype(np.int64)
    flat.add_core(len(rows), *map(faiss.swig_ptr, (vectors, rows, list_ids)))
    sizes = np.bincount(list_ids, minlength=n_lists)

    def search(n_probes: int) -> Candidates:
        flat.nprobe = n_probes
        return _search_flat(flat, trial)

    lists = Lists(sizes, trial.queries @ centroids.T)
    return Method(name, "float", 4 * dim, search, lists, build_seconds)


def _search_flat(index: faiss.Index, trial: Trial) -> Candidates:
    return without_excluded(lambda queries, k: index.search(queries, k), trial)
