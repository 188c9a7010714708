"""What is compared on a trial: exact search, the learned index, and lists alone.

All methods answer the same queries without the excluded items. Those that have no such filter of
their own are asked for so many more that dropping leaves enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np

from benchmarks.quality.lists import Lists, dead_codewords
from benchmarks.quality.trial import Trial
from benchmarks.quality.variants import POEEM, variant_of
from merlin_poeem import Candidates, Index, open_searcher
from merlin_poeem.arrays import Float32, Int64, normalize

CHUNK_QUERIES = 1024
OURS, OBJECTIVE_OF_POEEM = "ours", "Poeem's objective"
EXACT, LISTS = "exact", "lists"
Search = Callable[[int, int], Candidates]


@dataclass(frozen=True, eq=False)
class Method:
    """One way to search the items of a trial."""

    name: str
    form: str
    """``<pq_dim>x<pq_bits>``, or ``float`` where items are scored by their float vectors."""
    bytes_per_item: float
    search: Search
    """(n_probes, k) → at most k results of each query."""
    lists: Lists | None
    """None where every item is scored."""
    family: str
    """Of methods that are chosen among: see :mod:`~benchmarks.quality.choice`."""
    knobs: dict[str, Any] = field(default_factory=dict)
    """What is not as the family has it by default."""
    build_seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def has_codes(self) -> bool:
        """Whether a second look can add anything."""
        return self.form != "float"


def exact(trial: Trial) -> Method:
    """Every item's float vector scored."""
    flat = faiss.IndexFlatIP(trial.item_vectors.shape[1])
    flat.add(trial.item_vectors)
    return Method(
        f"exact {of_vectors(trial)}",
        "float",
        4 * trial.item_vectors.shape[1],
        lambda _, k: _search_flat(flat, trial, k),
        None,
        EXACT,
    )


def learned(trial: Trial, index: Index) -> Method:
    """The index that the model learned."""
    variant = variant_of(trial.name.variant)
    is_poeems = variant.options.items() >= POEEM.items()
    return quantized(
        trial.name.variant,
        trial,
        index,
        family=OBJECTIVE_OF_POEEM if is_poeems else OURS,
        knobs=variant.options,
        build_seconds=trial.facts["export_seconds"],
    )


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


def kmeans_lists(trial: Trial, *, spherical: bool) -> Method:
    """Faiss' clusters of the float vectors, by distance or by direction, the same vectors in them.

    Which of both is better depends on the data, and on how much is to be found.
    """
    dim = trial.item_vectors.shape[1]
    metric = faiss.METRIC_INNER_PRODUCT if spherical else faiss.METRIC_L2
    built = faiss.index_factory(dim, f"IVF{trial.facts['n_lists']},Flat", metric)
    built.cp.min_points_per_centroid = 1
    start = time.perf_counter()
    built.train(trial.item_vectors)
    seconds = time.perf_counter() - start
    centroids = built.quantizer.reconstruct_n(0, built.nlist)
    list_ids = built.quantizer.search(trial.item_vectors, 1)[1][:, 0]
    name = f"{'spherical ' if spherical else ''}k-means lists {of_vectors(trial)}"
    return _lists_only(name, trial, centroids, list_ids, seconds)


def of_vectors(trial: Trial) -> str:
    """Which float vectors something was built from."""
    return f"of {trial.name.variant} vectors"


def quantized(
    name: str,
    trial: Trial,
    index: Index,
    *,
    family: str,
    knobs: dict[str, Any],
    build_seconds: float,
    queries: Float32 | None = None,
) -> Method:
    """``index``, searched by Faiss; ``queries`` are the trial's as the index takes them."""
    params = index.params
    searcher = open_searcher(index, "faiss")
    queries = trial.queries if queries is None else queries
    return Method(
        name,
        f"{params.pq_dim}x{params.pq_bits}",
        params.pq_dim * params.pq_bits / 8 + (index.scales is not None),
        lambda n_probes, k: searcher.search(queries, k=k, n_probes=n_probes, exclude=trial.exclude),
        Lists.of(index, queries),
        family,
        knobs,
        build_seconds,
        {"dead_codewords": dead_codewords(index.codes, params.pq_book_size)},
    )


def without_excluded(
    find: Callable[[Float32, int], tuple[Float32, Int64]], trial: Trial, k: int
) -> Candidates:
    """The ``k`` best of every query; ``find(queries, k)`` gives scores and rows, best first.

    Rows are positions in ``trial.item_ids``; a row below 0 or a score that is no number is no
    result. It is asked for ``k`` and as many more as the longest list of excluded items.
    """
    exclude = trial.exclude
    longest = 0 if exclude is None else int(exclude.lengths.max(initial=0))
    n_asked = min(k + longest, len(trial.item_ids))
    results = []
    for start in range(0, len(trial.queries), CHUNK_QUERIES):
        found = find(trial.queries[start : start + CHUNK_QUERIES], n_asked)
        for i, (scores, rows) in enumerate(zip(*found, strict=True), start):
            is_kept = (rows >= 0) & np.isfinite(scores)
            item_ids = trial.item_ids[rows]
            if exclude is not None:
                is_kept &= ~np.isin(item_ids, exclude.row(i))
            kept = np.flatnonzero(is_kept)[:k]
            results.append((scores[kept], item_ids[kept]))
    return Candidates.from_rows(results)


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

    def search(n_probes: int, k: int) -> Candidates:
        flat.nprobe = n_probes
        return _search_flat(flat, trial, k)

    lists = Lists(sizes, trial.queries @ centroids.T)
    return Method(name, "float", 4 * dim, search, lists, LISTS, build_seconds=build_seconds)


def _search_flat(index: faiss.Index, trial: Trial, k: int) -> Candidates:
    return without_excluded(lambda queries, k: index.search(queries, k), trial, k)
