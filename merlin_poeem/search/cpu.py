"""Search on the CPU: Faiss scans our codes, and what Faiss leaves open is settled here.

Faiss returns the best of the scanned items by its own score, ties in no stated order. A query's
answer is taken only once it is certain: the k-th result must beat every item that Faiss has not
returned. Where it does not (a tie across the boundary, excluded items, the norms of cosine), that
query alone is scanned again for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem import reference
from merlin_poeem.arrays import Float32, Int64, normalize
from merlin_poeem.fit import import_faiss
from merlin_poeem.index import Index
from merlin_poeem.item_codes import Quantization
from merlin_poeem.item_set import ItemFilter, ItemSet
from merlin_poeem.params import Metric
from merlin_poeem.ragged import Candidates, IdLists
from merlin_poeem.request import SearchRequest
from merlin_poeem.search.convert_faiss import build_ivfpq

CHUNK_BYTES = 64 << 20
# How many more results an unsettled query asks for next time.
GROWTH = 4
# The same for the first search for cosines, the cosine at which few are needed, and what their
# rounding may amount to.
COSINE_WIDTH = 3
EXPECTED_COSINE = 0.5
COSINE_ROUNDING = 2e-6
# Small enough to even out the threads, large enough for the matrix products to pay.
SHARES_PER_THREAD = 2
MIN_SHARE = 32
# Lists whose scores differ by less than this part of the largest are chosen by the definition.
LIST_TIE = 1e-6


class FaissSearcher:
    """An index opened in Faiss, answering as :mod:`merlin_poeem.reference` defines.

    Opening copies the codes into Faiss' lists. A cosine index is decoded once for its norms; it and
    an ``l2`` index keep a table of ``n_lists * pq_dim * pq_book_size`` float32 where that is below
    Faiss' ``precomputed_table_max_bytes``.

    Raises ``ImportError`` where faiss-cpu is not installed.
    """

    backend = "faiss"
    on_device = False

    def __init__(self, index: Index) -> None:
        self.index = index
        self._faiss = import_faiss()
        # Cosines are scanned for as distances: see _Cosines.
        self._scans_distances = index.params.metric != "inner_product"
        metric: Metric = "l2" if self._scans_distances else "inner_product"
        quantization = index.quantization
        # Distances are unchanged when all is shifted, and more exact the shorter the vectors.
        self._origin = np.zeros(index.dim, np.float32)
        if index.params.metric == "l2" and quantization.encodes_residual:
            self._origin = quantization.coarse_centroids.mean(axis=0)
        self._centroids = quantization.coarse_centroids - self._origin
        centred = replace(quantization, coarse_centroids=self._centroids)
        # Faiss' ids are our rows, whatever the items' ids are.
        self._ivfpq = build_ivfpq(index, centred, np.arange(index.n_items), metric)
        self._list_chooser, self._cosines = self._ivfpq.quantizer, None
        compared = self._centroids
        if index.params.metric == "cosine":
            compared = normalize(self._centroids)
            self._list_chooser, self._cosines = self._faiss.IndexFlatIP(index.dim), _Cosines(index)
            self._list_chooser.add(compared)
        self._longest_centroid = float(np.linalg.norm(compared, axis=1).max())

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """See :meth:`Searcher.search <merlin_poeem.search.searcher.Searcher.search>`."""
        request = SearchRequest.of(self.index, queries, k, n_probes, exclude, allow)
        item_filter = _Filter.of(self.index, request)

        def search_share(share: slice) -> Candidates:
            queries_rot = request.queries_rot[share]
            batch = self._open_batch(queries_rot, request.n_probes, item_filter.of_queries(share))
            return self._search_batch(batch, request.k)

        width = max(min(request.k, self.index.n_items), request.n_probes)
        return _concatenate(self._in_threads(search_share, len(request), width))

    def _in_threads(
        self, search_share: Callable[[slice], Candidates], n_queries: int, width: int
    ) -> list[Candidates]:
        """``search_share`` of every share of the queries, as many at once as Faiss has threads.

        Each share stays on one thread from its lists to its candidates: they wait for each other
        once, where Faiss' own threads would in every step.
        """
        n_threads = self._faiss.omp_get_max_threads()
        n_shares = SHARES_PER_THREAD * n_threads if n_threads > 1 else 1
        longest = max(MIN_SHARE, -(-n_queries // n_shares))
        shares = list(_blocks(n_queries, 12 * width * n_threads, longest))
        if len(shares) == 1:
            return [search_share(shares[0])]
        # The setting is the calling thread's own: Faiss keeps its threads everywhere else.
        with ThreadPoolExecutor(
            n_threads, initializer=self._faiss.omp_set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(search_share, shares))

    def _open_batch(self, queries_rot: Float32, n_probes: int, item_filter: _Filter) -> _Batch:
        probes, list_scores = self._choose_lists(queries_rot, n_probes)
        queries = queries_rot - self._origin
        if self._cosines is not None:
            queries = self._cosines.scale * queries
        if list_scores is None:
            list_scores = self._list_scores(queries, probes)
        n_scanned = self.index.list_sizes[probes].sum(axis=1)
        return _Batch(queries, probes, list_scores, n_scanned, item_filter)

    def _choose_lists(self, queries_rot: Float32, n_probes: int) -> tuple[Int64, Float32 | None]:
        """The best lists of each query (n, n_probes), and Faiss' scores of them if they serve."""
        queries = queries_rot - self._origin
        one_more = min(n_probes + 1, self.index.n_lists)
        scores, probes = self._list_chooser.search(queries, one_more)
        tied: Int64 = np.empty(0, np.int64)
        if one_more > n_probes:
            gap = np.abs(scores[:, n_probes - 1] - scores[:, n_probes])
            tied = np.flatnonzero(gap <= LIST_TIE * self._largest_list_score(queries))
        probes = np.ascontiguousarray(probes[:, :n_probes])
        if len(tied):
            probes[tied] = self._by_definition(queries_rot[tied], n_probes)
        if self._scans_distances or len(tied):
            # Cosine chooses lists by another score; Faiss' own of l2 come from
            # ‖q‖² − 2⟨q, c⟩ + ‖c‖², which is inexact where q is close to c.
            return probes, None
        return probes, np.ascontiguousarray(scores[:, :n_probes])

    def _largest_list_score(self, queries: Float32) -> Float32:
        """(n,), what no list's score exceeds in size: the scale of its rounding errors."""
        lengths = np.linalg.norm(queries, axis=1)
        if self.index.params.metric == "l2":
            return np.asarray((lengths + self._longest_centroid) ** 2)
        return np.asarray(lengths * self._longest_centroid)

    def _by_definition(self, queries_rot: Float32, n_probes: int) -> Int64:
        scores = reference.list_scores(
            self.index.quantization, queries_rot, self.index.params.metric
        )
        best = np.argsort(-scores, axis=1, kind="stable")[:, :n_probes]
        return np.ascontiguousarray(best)

    def _list_scores(self, queries: Float32, probes: Int64) -> Float32:
        """Faiss' score of each query's ``probes``: ⟨q, c⟩ or ‖q − c‖², shape of ``probes``."""
        score = self._faiss.fvec_inner_products_by_idx
        if self._scans_distances:
            score = self._faiss.fvec_L2sqr_by_idx
        scores = np.empty(probes.shape, np.float32)
        pointers = map(self._faiss.swig_ptr, (scores, queries, self._centroids, probes))
        score(*pointers, self.index.dim, *probes.shape)
        return scores

    def _search_batch(self, batch: _Batch, k: int) -> Candidates:
        n_queries = len(batch.n_scanned)
        k = min(k, int(batch.n_scanned.max(initial=0)))
        scores: Float32 = np.empty((n_queries, k), np.float32)
        rows: Int64 = np.full((n_queries, k), -1, np.int64)
        # One more than k shows whether a tie crosses the boundary; cosine needs some more.
        first_width = k + 1 if self._cosines is None else (k + 1) * COSINE_WIDTH
        work = _by_width(batch.item_filter.n_excluded, first_width) if k else []
        while work:
            chosen, width = work.pop()
            part = batch.take(chosen)
            width = min(width, int(part.n_scanned.max()) or 1)
            part_scores, part_rows, settled = self._settle(part, *self._scan(part, width), k)
            if len(chosen) == n_queries and width >= k:
                # The common case, without a copy; what is not settled yet is overwritten.
                scores, rows = part_scores[:, :k], part_rows[:, :k]
            else:
                done, columns = chosen[settled], min(k, width)
                scores[done, :columns] = part_scores[settled, :k]
                rows[done, :columns] = part_rows[settled, :k]
            work += _split(chosen[~settled], width * GROWTH)
        return self._candidates(scores, rows)

    def _candidates(self, scores: Float32, rows: Int64) -> Candidates:
        """Both (n, k), best first, rows −1 where there is no item."""
        found = rows >= 0
        if found.all():
            counts = np.full(len(rows), rows.shape[1])
            return Candidates(counts, scores.ravel(), self.index.item_ids[rows].ravel())
        return Candidates(found.sum(axis=1), scores[found], self.index.item_ids[rows[found]])

    def _scan(self, batch: _Batch, width: int) -> tuple[Float32, Int64]:
        """The ``width`` best items by Faiss' score: (scores, rows), both (n, width), best first.

        Rows are −1, and scores −inf, where the lists hold fewer.
        """
        n_queries = len(batch.queries_rot)
        scores: Float32 = np.empty((n_queries, width), np.float32)
        rows: Int64 = np.full((n_queries, width), -1, np.int64)
        if batch.item_filter.allowed is None:
            selector = self._selector_of_all(batch.item_filter)
            self._scan_lists(batch, slice(None), selector, scores, rows)
        else:
            for i in range(n_queries):
                allowed = batch.item_filter.allowed_rows(i)
                if len(allowed):
                    selector = self._faiss.IDSelectorBatch(allowed)
                    self._scan_lists(batch, slice(i, i + 1), selector, scores, rows)
        if self._scans_distances:
            # Rounding may leave a distance a little below zero.
            scores = np.minimum(-scores, 0)
        if rows.size and rows[:, -1].min() < 0:
            scores[rows < 0] = -np.inf
        return scores, rows

    def _selector_of_all(self, item_filter: _Filter) -> Any:
        """Faiss' selector of the rows that any query may return, None where that is every row."""
        if item_filter.eligible is None:
            return None
        return self._faiss.IDSelectorBitmap(np.packbits(item_filter.eligible, bitorder="little"))

    def _scan_lists(
        self, batch: _Batch, queries: slice, selector: Any, scores: Float32, rows: Int64
    ) -> None:
        n_queries, width = scores[queries].shape
        params = self._faiss.SearchParametersIVF(nprobe=batch.probes.shape[1], sel=selector)
        arrays = (batch.queries_rot, batch.probes, batch.list_scores, scores, rows)
        x, probes, list_scores, scores_out, rows_out = (
            self._faiss.swig_ptr(array[queries]) for array in arrays
        )
        self._ivfpq.search_preassigned_c(
            n_queries, x, width, probes, list_scores, scores_out, rows_out, False, params
        )

    def _settle(
        self, batch: _Batch, scores: Float32, rows: Int64, k: int
    ) -> tuple[Float32, Int64, NDArray[np.bool_]]:
        """Scanned items put in their final order, and for which queries the first k are certain."""
        complete = (rows[:, -1] < 0) | (batch.n_scanned <= rows.shape[1])
        # No item that was not returned scores above the last one that was.
        bound = scores[:, -1].copy()  # what follows moves scores in place
        if self._cosines is not None:
            bound = self._cosines.bound(batch, bound)
            scores = self._cosines.of(batch, scores, rows)
        batch.item_filter.drop_excluded(scores, rows)
        _sort_rows(scores, rows, self.index.item_ids)
        if rows.shape[1] < k:
            return scores, rows, complete
        return scores, rows, complete | (scores[:, k - 1] > bound)


@dataclass(frozen=True)
class _Batch:
    """Queries with the lists they visit."""

    queries_rot: Float32
    """(n, dim), rotated, relative to the searcher's origin."""

    probes: Int64
    """(n, n_probes)."""

    list_scores: Float32
    """(n, n_probes), Faiss' score of each probe."""

    n_scanned: Int64
    """(n,), items in the visited lists."""

    item_filter: _Filter

    def take(self, chosen: Int64) -> _Batch:
        if len(chosen) == len(self.n_scanned):
            return self
        return _Batch(
            self.queries_rot[chosen],
            self.probes[chosen],
            self.list_scores[chosen],
            self.n_scanned[chosen],
            self.item_filter.take(chosen),
        )


@dataclass(frozen=True)
class _Filter:
    """What each query must not, or may only, return.

    A (query, row) pair is one number, ``query * n_items + row``, and a filter a sorted array of
    them. Ids that the index does not hold have no pair. Item sets, the same for all queries, are
    one mask of the rows: pairs tell only of rows in it.
    """

    queries: Int64
    """(n,), the numbers that the pairs know these queries by."""

    n_items: int
    eligible: NDArray[np.bool_] | None
    """(n_items,), the rows that the sets leave; None where there is no set."""
    excluded: Int64 | None
    allowed: Int64 | None

    @classmethod
    def of(cls, index: Index, request: SearchRequest) -> _Filter:
        eligible = _eligible(index, request)
        excluded = _pairs(index, request.exclude, eligible)
        allowed = _pairs(index, request.allow, eligible)
        if excluded is not None and allowed is not None:
            allowed = np.setdiff1d(allowed, excluded, assume_unique=True)
            excluded = None
        return cls(np.arange(len(request)), index.n_items, eligible, excluded, allowed)

    def of_queries(self, block: slice) -> _Filter:
        return replace(self, queries=self.queries[block])

    def take(self, chosen: Int64) -> _Filter:
        return replace(self, queries=self.queries[chosen])

    @property
    def n_excluded(self) -> Int64:
        """(n,), excluded items of each query."""
        if self.excluded is None:
            return np.zeros(len(self.queries), np.int64)
        first = np.searchsorted(self.excluded, self.queries * self.n_items)
        last = np.searchsorted(self.excluded, (self.queries + 1) * self.n_items)
        return np.asarray(last - first)

    def allowed_rows(self, i: int) -> Int64:
        """Rows that query ``i`` may return."""
        assert self.allowed is not None
        first = self.queries[i] * self.n_items
        start, stop = np.searchsorted(self.allowed, (first, first + self.n_items))
        return np.asarray(self.allowed[start:stop] - first)

    def drop_excluded(self, scores: Float32, rows: Int64) -> None:
        """Mark excluded items in ``rows`` (n, width) as absent: row −1, score −inf."""
        if self.excluded is None or not len(self.excluded):
            return
        pairs = self.queries[:, None] * self.n_items + rows
        place = np.searchsorted(self.excluded, pairs)
        np.minimum(place, len(self.excluded) - 1, out=place)
        # An absent row makes the pair of another query's last item.
        dropped = (self.excluded[place] == pairs) & (rows >= 0)
        rows[dropped], scores[dropped] = -1, -np.inf


class _Cosines:
    """Cosines with the reconstructions, from the distances that Faiss scans for.

    Faiss keeps no norm of an item, and so can't rank by ⟨q, x̂⟩ / ‖x̂‖. It ranks by the distance of
    x̂ to the query scaled to length s, where cos = (s² + ‖x̂‖² − distance) / (2 s ‖x̂‖). At one
    distance that depends little on ‖x̂‖ around s · cos: few more than k distances settle k cosines,
    several times fewer than inner products would.
    """

    def __init__(self, index: Index) -> None:
        self._norms: Float32 = np.empty(index.n_items, np.float32)
        codes = index.codes
        for rows in _blocks(index.n_items, 16 * index.dim):
            decoded = reference.decode_rotated(
                index.quantization, index.list_ids[rows], codes[rows]
            )
            self._norms[rows] = np.linalg.norm(decoded, axis=1)
        zero = self._norms == 0
        # The cosine with nothing is 0; otherwise the bound below is of norms above 0.
        self._lowest_bound = 0 if zero.any() else -np.inf
        longest = self._norms.max(initial=0) or np.float32(1)
        norms = np.where(zero, longest, self._norms)
        self._shortest: Float32 = np.full(index.n_lists, longest, np.float32)
        self._longest: Float32 = np.full(index.n_lists, longest, np.float32)
        filled = np.flatnonzero(index.list_sizes)
        if len(filled):
            self._shortest[filled] = np.minimum.reduceat(norms, index.list_offsets[filled])
            self._longest[filled] = np.maximum.reduceat(norms, index.list_offsets[filled])
        self.scale: np.float32 = np.float32(_typical_norm(index.quantization) / EXPECTED_COSINE)

    def of(self, batch: _Batch, scores: Float32, rows: Int64) -> Float32:
        """Cosines of the items in ``rows``; scores −distance, both (n, width). −inf stays."""
        if not len(self._norms):
            return scores
        return self._from_distances(batch, scores, self._norms[rows])

    def bound(self, batch: _Batch, scores: Float32) -> Float32:
        """(n,): no item of the visited lists at this distance or beyond it has more cosine."""
        ends = (self._shortest[batch.probes].min(axis=1), self._longest[batch.probes].max(axis=1))
        # Convex in the norm, so that the largest is at an end.
        cosines = [self._from_distances(batch, scores[:, None], end[:, None]) for end in ends]
        largest = np.maximum(*cosines)[:, 0] + np.float32(COSINE_ROUNDING)
        return np.asarray(np.maximum(largest, self._lowest_bound), np.float32)

    def _from_distances(self, batch: _Batch, scores: Float32, norms: Float32) -> Float32:
        lengths = np.einsum("nd,nd->n", batch.queries_rot, batch.queries_rot)[:, None]
        inner_products = (lengths + norms**2 + scores) / (2 * self.scale)
        # With a query or an item of zeros it is 0 exactly: rounding must not make an order.
        nothing = ((lengths == 0) | (norms == 0)) & (scores > -np.inf)
        inner_products[nothing] = 0
        return np.asarray(inner_products / np.where(norms > 0, norms, 1), np.float32)


def _typical_norm(quantization: Quantization) -> float:
    """Of a reconstruction, as if all lists and codewords were as frequent.

    Not that of the items: parts of one catalog have to score their items alike, to the bit.
    """
    squares = (quantization.codebook.astype(np.float64) ** 2).sum(axis=2).mean(axis=1).sum()
    if quantization.encodes_residual:
        squares += (quantization.coarse_centroids.astype(np.float64) ** 2).sum(axis=1).mean()
    return float(np.sqrt(squares)) or 1.0


def _eligible(index: Index, request: SearchRequest) -> NDArray[np.bool_] | None:
    """(n_items,), whether the request's item sets leave a row; None where it has none."""
    if not isinstance(request.exclude, ItemSet) and not isinstance(request.allow, ItemSet):
        return None
    eligible: NDArray[np.bool_] = np.ones(index.n_items, bool)
    if isinstance(request.allow, ItemSet):
        eligible = _mask(index, request.allow)
    if isinstance(request.exclude, ItemSet):
        eligible &= ~_mask(index, request.exclude)
    return eligible


def _mask(index: Index, item_set: ItemSet) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.zeros(index.n_items, bool)
    rows = index.rows_of(item_set.item_ids)
    mask[rows[rows >= 0]] = True
    return mask


def _pairs(
    index: Index, lists: ItemFilter | None, eligible: NDArray[np.bool_] | None
) -> Int64 | None:
    """The pairs of ``lists`` whose rows are eligible; None where there are no lists."""
    if not isinstance(lists, IdLists):
        return None
    rows = index.rows_of(lists.values)
    told = rows >= 0
    if eligible is not None:
        told[told] = eligible[rows[told]]
    queries = np.repeat(np.arange(len(lists)), lists.lengths)
    pairs = np.sort(queries[told] * index.n_items + rows[told])
    # Without repeats, as np.unique does, whose hashing is several times slower here.
    return pairs[np.diff(pairs, prepend=-1) > 0]


def _blocks(n: int, bytes_each: int, longest: int | None = None) -> Iterator[slice]:
    """Slices of 0..n of at most ``CHUNK_BYTES`` and ``longest``; one empty slice where n is 0."""
    step = max(1, CHUNK_BYTES // max(1, bytes_each))
    step = step if longest is None else min(step, longest)
    for start in range(0, max(n, 1), step):
        yield slice(start, min(start + step, n))


def _split(chosen: Int64, width: int) -> list[tuple[Int64, int]]:
    """``chosen`` queries in groups whose ``width`` results each fit in memory together."""
    if not len(chosen):
        return []
    return [(chosen[block], width) for block in _blocks(len(chosen), 12 * width)]


def _by_width(n_more: Int64, width: int) -> list[tuple[Int64, int]]:
    """Queries grouped by the results to ask for, ``width + n_more`` rounded up to 2ⁱ ``width``.

    A query that excludes much then does not slow down the others.
    """
    doublings = np.ceil(np.log2((width + n_more) / width)).astype(np.int64)
    groups = []
    for power in np.unique(doublings).tolist():
        groups += _split(np.flatnonzero(doublings == power), width << power)
    return groups


def _sort_rows(scores: Float32, rows: Int64, item_ids: Int64) -> None:
    """Sort each query's items in place by falling score, equal scores by item id.

    Only queries that are not strictly falling yet are touched: few, where Faiss' order stands.
    """
    unsorted = _not_falling(scores)
    if len(unsorted):
        order = np.argsort(-scores[unsorted], axis=1)
        _reorder(scores, rows, unsorted, order)
        # By two keys, which is slow, only where there are ties; absent items are no tie.
        tied = unsorted[_not_falling(np.where(rows[unsorted] < 0, np.nan, scores[unsorted]))]
        _reorder(scores, rows, tied, np.lexsort((item_ids[rows[tied]], -scores[tied])))


def _not_falling(scores: Float32) -> Int64:
    return np.flatnonzero((scores[:, 1:] >= scores[:, :-1]).any(axis=1))


def _reorder(scores: Float32, rows: Int64, queries: Int64, order: Int64) -> None:
    scores[queries] = np.take_along_axis(scores[queries], order, axis=1)
    rows[queries] = np.take_along_axis(rows[queries], order, axis=1)


def _concatenate(parts: list[Candidates]) -> Candidates:
    if len(parts) == 1:
        return parts[0]
    return Candidates(
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.item_ids for part in parts]),
    )
