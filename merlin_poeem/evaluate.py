"""How good an index is, and what it costs: quality, agreement with exact search, balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import (
    Float32,
    Int64,
    as_item_ids,
    as_vectors,
    check_unique,
    largest_value,
    normalize,
    to_host,
    type_name,
)
from merlin_poeem.index.index import Index
from merlin_poeem.progress import Progress
from merlin_poeem.quantization.params import METRICS, Metric, check_n_probes, positive_int
from merlin_poeem.search import reference
from merlin_poeem.search.item_set import as_item_filter
from merlin_poeem.search.ragged import Candidates, IdLists, offsets_of

__all__ = [
    "BytesPerItem",
    "ListBalance",
    "agreement",
    "bytes_per_item",
    "exact_search",
    "items_scanned",
    "list_balance",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
]

CHUNK_BYTES = 64 << 20
MIDDLE_ROWS = 1024

_TAKEN = "Candidates, as a search returns them, or an array of integer item ids"


def recall_at_k(found: Any, relevant: Any, k: int) -> float:
    """Share of a query's relevant items among its first ``k`` results, mean over queries.

    Parameters
    ----------
    found
        :class:`Candidates`, or integer item ids (n_queries, width ≥ k) best first, short rows
        padded with an id that is relevant to no query. An id that comes again for the same query
        counts where it comes first.
    relevant
        One list of item ids per query (:class:`IdLists` or a sequence of sequences). Queries
        without any relevant item are left out of the mean.

    Raises
    ------
    TypeError
        ``found`` is neither, such as a frame, or holds ids that are no integers.
    ValueError
        ``k`` below 1, another number of lists than queries, no query with a relevant item, an array
        narrower than ``k``, or ids that do not fit in int64.
    """
    hits, n_relevant = _judge(found, "relevant", relevant, k)
    return float((hits.sum(axis=1) / n_relevant).mean())


def precision_at_k(found: Any, relevant: Any, k: int) -> float:
    """Share of relevant items among ``k`` results, a missing result counting as a miss; the mean.

    Parameters and errors are those of :func:`recall_at_k`.
    """
    hits, _ = _judge(found, "relevant", relevant, k)
    return float(hits.mean())


def ndcg_at_k(found: Any, relevant: Any, k: int) -> float:
    """Σ over hits of 1 / log₂(rank + 1), divided by the best sum there could be; the mean.

    Parameters and errors are those of :func:`recall_at_k`.
    """
    hits, n_relevant = _judge(found, "relevant", relevant, k)
    gains = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(gains)[np.minimum(n_relevant, k) - 1]
    # At most 1 but for the order in which the same gains are summed.
    return float(np.minimum(hits @ gains / ideal, 1).mean())


def agreement(found: Candidates, exact: Candidates, k: int) -> float:
    """Share of the exact first ``k`` items that are among the first ``k`` found, mean over queries.

    Both are taken as :func:`recall_at_k` takes ``found``, and errors are its.
    """
    exact_ids, exists = _first("exact", exact, positive_int("k", k))
    lists = IdLists(offsets_of(exists.sum(axis=1)), exact_ids[exists])
    hits, n_exact = _judge(found, "exact", lists, k)
    return float((hits.sum(axis=1) / n_exact).mean())


def exact_search(
    item_ids: Any,
    vectors: Float32,
    queries: Float32,
    *,
    k: int,
    metric: Metric = "inner_product",
    exclude: Any = None,
    progress: bool = True,
) -> Candidates:
    """The ``k`` best items by their float vectors, every item scored; ties by lower item id.

    Parameters
    ----------
    item_ids
        (n_items,) integers, each once.
    vectors, queries
        (n_items, dim) and (n_queries, dim) float32.
    metric
        As in :class:`~merlin_poeem.IVFPQParams`.
    exclude
        Item ids never returned: one list per query, or ids for all queries, as of
        :meth:`Searcher.search <merlin_poeem.Searcher.search>`.
    progress
        Whether work of more than two seconds shows a bar on stderr.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, NaN, repeated ids, ``k`` below 1, an unknown metric.
    """
    item_ids = to_host(as_item_ids("item_ids", item_ids))
    check_unique("item_ids", item_ids)
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}; got {metric!r}")
    largest = largest_value(metric)
    vectors = as_vectors("vectors", to_host(vectors), largest=largest)
    queries = as_vectors("queries", to_host(queries), vectors.shape[1], largest=largest)
    k = positive_int("k", k)
    if len(item_ids) != len(vectors):
        raise ValueError(f"item_ids: expected {len(vectors)}, one a vector; got {len(item_ids)}")
    excluded = as_item_filter("exclude", exclude, len(queries))
    if metric == "cosine":
        vectors, queries = normalize(vectors), normalize(queries)
    if metric == "l2" and len(vectors):
        # Distances stay the same, and squares of what is far from zero would lose their digits.
        middle = np.median(vectors[:: -(-len(vectors) // MIDDLE_ROWS)], axis=0).astype(np.float32)
        vectors, queries = vectors - middle, queries - middle
    square_norms = (vectors**2).sum(axis=1) if metric == "l2" else None
    results = []
    step = max(1, CHUNK_BYTES // (4 * max(1, len(vectors))))
    with Progress("exact search", len(queries), "queries", shown=progress) as bar:
        for start in range(0, len(queries), step):
            chunk = queries[start : start + step]
            scores = chunk @ vectors.T
            if square_norms is not None:
                scores = 2 * scores - square_norms - (chunk**2).sum(axis=1, keepdims=True)
            for i, row in enumerate(scores, start):
                kept: Int64 = np.arange(len(item_ids))
                if excluded is not None:
                    kept = np.flatnonzero(~np.isin(item_ids, to_host(excluded.row(i))))
                results.append(_best(row[kept], item_ids[kept], k))
            bar.update(len(chunk))
    return Candidates.from_rows(results)


@dataclass(frozen=True)
class ListBalance:
    """How evenly the items are spread over the lists."""

    max_over_mean: float
    """Longest list over the mean length; 1 is perfect balance."""

    coefficient_of_variation: float
    """Standard deviation of the lengths over their mean; 0 is perfect balance."""

    empty_lists: int
    """Lists without an item."""

    expected_items_scanned: float
    """Items in the list of a random item: what one probe scans if queries fall like items.

    ``n_items / n_lists`` at perfect balance."""


def list_balance(index: Index) -> ListBalance:
    """The balance of ``index``'s lists; ``ValueError`` where it holds no items."""
    _check_holds_items(index)
    sizes = index.list_sizes
    mean = float(sizes.mean())
    return ListBalance(
        max_over_mean=float(sizes.max()) / mean,
        coefficient_of_variation=float(sizes.std()) / mean,
        empty_lists=int((sizes == 0).sum()),
        expected_items_scanned=float((sizes.astype(np.float64) ** 2).sum() / index.n_items),
    )


def items_scanned(index: Index, queries: Float32, n_probes: int | None = None) -> Int64:
    """(n_queries,) int64, items in the lists that each raw (n_queries, dim) query visits.

    Raises ``TypeError`` or ``ValueError`` as a search does.
    """
    largest = largest_value(index.params.metric)
    queries = as_vectors("queries", to_host(queries), index.dim, largest=largest)
    n_probes = check_n_probes(
        index.params.n_probes if n_probes is None else n_probes, index.n_lists
    )
    scanned = np.empty(len(queries), np.int64)
    step = max(1, CHUNK_BYTES // (8 * index.n_lists))
    for start in range(0, len(queries), step):
        chunk = slice(start, start + step)
        queries_rot = index.quantization.rotate_queries(queries[chunk])
        scores = reference.list_scores(
            index.quantization, queries_rot, index.params.metric, index.list_factors
        )
        probes = np.argsort(-scores, axis=1, kind="stable")[:, :n_probes]
        scanned[chunk] = index.list_sizes[probes].sum(axis=1)
    return scanned


@dataclass(frozen=True)
class BytesPerItem:
    """What an item costs in memory and on disk, in bytes."""

    codes: float
    """Its packed codes."""

    scale: float
    """Its scale: a byte, or 0 in an index without."""

    vectors: float
    """Its stored vector, values and scale; or 0 in an index without."""

    item_id: float
    """Its id, int64."""

    shared: float
    """Its part of what all items share: centroids, codebook, rotations, the range of scales, and
    the offsets and lengths of lists."""

    @property
    def total(self) -> float:
        """The sum."""
        return self.codes + self.scale + self.vectors + self.item_id + self.shared


def bytes_per_item(index: Index) -> BytesPerItem:
    """The exact bytes of ``index``'s arrays per item; ``ValueError`` where it holds no items."""
    _check_holds_items(index)
    quantization = index.quantization
    shared: list[NDArray[Any] | None] = [
        quantization.coarse_centroids,
        quantization.codebook,
        quantization.rotation,
        quantization.query_rotation,
        quantization.scale_range,
        index.list_offsets,
        index.list_lengths64,
    ]
    return BytesPerItem(
        codes=index.packed_codes.nbytes / index.n_items,
        scale=0.0 if index.scales is None else index.scales.nbytes / index.n_items,
        vectors=0.0 if index.vectors is None else index.vectors.nbytes / index.n_items,
        item_id=index.item_ids.nbytes / index.n_items,
        shared=sum(array.nbytes for array in shared if array is not None) / index.n_items,
    )


def _judge(found: Any, name: str, relevant: Any, k: int) -> tuple[NDArray[np.bool_], Int64]:
    """Hits (n, k) and the number of relevant items (n,), of the queries that have any.

    ``name`` is what errors call ``relevant``.
    """
    ids, exists = _first("found", found, positive_int("k", k))
    lists = IdLists.of(name, relevant, len(ids))
    wanted, lengths = to_host(lists.values), to_host(lists.lengths)
    # Ids may be any int64, so pairs of query and item are numbered by the ids' own order.
    known, numbers = np.unique(np.concatenate([ids.ravel(), wanted]), return_inverse=True)
    queries = np.arange(len(ids))
    of_found = queries[:, None] * len(known) + numbers[: ids.size].reshape(ids.shape)
    of_relevant = np.repeat(queries, lengths) * len(known) + numbers[ids.size :]
    of_relevant = np.unique(of_relevant)
    hits = np.isin(of_found, of_relevant) & exists & ~_repeats(ids)
    n_relevant = np.bincount(of_relevant // max(1, len(known)), minlength=len(ids))
    judged = n_relevant > 0
    if not judged.any():
        raise ValueError(f"{name}: expected a query with a relevant item, got none")
    return hits[judged], n_relevant[judged]


def _first(name: str, found: Any, k: int) -> tuple[Int64, NDArray[np.bool_]]:
    """The first ``k`` ids of each query (n, k), and where there is one."""
    if isinstance(found, Candidates):
        return _first_of_candidates(name, found.to_host(), k)
    if hasattr(found, "columns"):
        raise TypeError(f"{name}: expected {_TAKEN}; got {type_name(found)}")
    # Lists not as NumPy takes them: integers beyond int64 make floats of the others.
    ids = np.asarray(to_host(found), None if hasattr(found, "dtype") else object)
    if ids.dtype.kind not in "iuO":
        raise TypeError(f"{name}: expected {_TAKEN}; got {type_name(found)} of {ids.dtype}")
    if ids.ndim != 2 or ids.shape[1] < k:
        raise ValueError(f"{name}: expected shape (n_queries, at least {k}), got {ids.shape}")
    ids = as_item_ids(name, ids[:, :k].ravel()).reshape(len(ids), k)
    return ids, np.ones(ids.shape, bool)


def _first_of_candidates(name: str, found: Candidates, k: int) -> tuple[Int64, NDArray[np.bool_]]:
    places = np.arange(k)
    exists = places < found.counts[:, None]
    ids = np.zeros(exists.shape, np.int64)
    results = (found.offsets[:-1, None] + places)[exists]
    ids[exists] = as_item_ids(f"{name}.item_ids", found.item_ids)[results]
    return ids, exists


def _repeats(ids: Int64) -> NDArray[np.bool_]:
    """Where a row of (n, k) ``ids`` holds the id in an earlier place too."""
    order = np.argsort(ids, axis=1, kind="stable")
    in_order = np.take_along_axis(ids, order, axis=1)
    repeats = np.zeros(ids.shape, bool)
    np.put_along_axis(repeats, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
    return repeats


def _best(scores: Float32, item_ids: Int64, k: int) -> tuple[Float32, Int64]:
    """The ``k`` best of (n,) scores, best first, equal scores by item id."""
    if len(scores) > k:
        # All items as good as the k-th: the lowest ids of those are the ones to keep.
        chosen = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
        scores, item_ids = scores[chosen], item_ids[chosen]
    order = np.lexsort((item_ids, -scores))[:k]
    return scores[order], item_ids[order]


def _check_holds_items(index: Index) -> None:
    if not index.n_items:
        raise ValueError("index: expected at least one item, got an empty index")
