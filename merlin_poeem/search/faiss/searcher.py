"""FaissSearcher: lists chosen, codes scanned by Faiss, until every query's answer is certain.

Faiss returns the best of the scanned items by its own score, ties in no stated order. Where that is
no certain answer yet (a tie across the boundary, excluded items, the norms of cosine, the items'
scales), that query alone is scanned again for more.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64, normalize
from merlin_poeem.convert.faiss import build_ivfpq
from merlin_poeem.index.index import Index
from merlin_poeem.quantization import openmp
from merlin_poeem.quantization.fit import import_faiss
from merlin_poeem.quantization.origin import middle_of
from merlin_poeem.quantization.params import Metric
from merlin_poeem.search import reference
from merlin_poeem.search.faiss.batch import Batch
from merlin_poeem.search.faiss.certainty import settle
from merlin_poeem.search.faiss.cosines import Cosines
from merlin_poeem.search.faiss.filters import Filter
from merlin_poeem.search.faiss.list_ties import ListTies
from merlin_poeem.search.faiss.portions import blocks, by_width, split
from merlin_poeem.search.faiss.scales import Scales
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.request import SearchRequest
from merlin_poeem.search.second_look import look_again
from merlin_poeem.search.shown import Shown

# How many more results an unsettled query asks for next time, and cosines the first time.
GROWTH = 4
COSINE_WIDTH = 3
# Faiss' own number: each thread takes some of the queries.
OVER_QUERIES = 3
# Shares small enough to even out the threads.
SHARES_PER_THREAD = 2
# Queries a thread from which shares pay. Below, Faiss' own threads share the scan alone: to start
# ours takes longer than what NumPy does after it, which is more where scores are computed anew.
MIN_SHARE = 256
MIN_SHARE_RESCORED = 64


class FaissSearcher(Shown):
    """An index opened in Faiss, answering as :mod:`merlin_poeem.search.reference` defines.

    Opening copies the codes into Faiss' lists, with the items' scales where they have some: codes
    below 8 bits, other than 4, then take a byte each. A cosine index without scales is decoded once
    for its norms; it and an ``l2`` index keep a table of ``n_lists * pq_dim * pq_book_size``
    float32 where that is below Faiss' ``precomputed_table_max_bytes``.

    Raises ``ImportError`` where faiss-cpu is not installed.
    """

    backend = "faiss"
    on_device = False

    def __init__(self, index: Index) -> None:
        self.index = index
        self._faiss = import_faiss()
        # Without scales, cosines are scanned for as distances: see Cosines.
        has_scales = index.scales is not None
        self._scans_distances = index.params.metric != "inner_product" and not has_scales
        metric: Metric = "l2" if self._scans_distances else "inner_product"
        quantization = index.quantization
        # Distances are unchanged when all is moved, and more exact the shorter the vectors.
        self._origin: Float32 = np.zeros(index.dim, np.float32)
        if index.params.metric == "l2" and quantization.encodes_residual:
            self._origin = middle_of(quantization)
        self._has_factors = index.list_factors is not None
        compared = _compared_centroids(index) - self._origin
        quantization = replace(
            quantization, coarse_centroids=quantization.coarse_centroids - self._origin
        )
        self._scales = None if index.scales is None else Scales(index, index.scales)
        by_norms = index.params.metric == "cosine" and not has_scales
        self._cosines = Cosines(index) if by_norms else None
        packed_codes = None
        if self._scales is not None:
            quantization, packed_codes = self._scales.quantization, self._scales.packed_codes
        self._centroids = quantization.coarse_centroids
        # Faiss' ids are our rows, whatever the items' ids are.
        rows = np.arange(index.n_items)
        self._ivfpq = build_ivfpq(index, quantization, rows, metric, packed_codes)
        # A scan of lists that were chosen before is on one thread otherwise.
        self._ivfpq.parallel_mode = OVER_QUERIES
        flat = self._faiss.IndexFlatL2 if index.params.metric == "l2" else self._faiss.IndexFlatIP
        self._list_chooser = flat(index.dim)
        self._list_chooser.add(compared)
        self._list_ties = ListTies(compared, index.params.metric)
        self._parameters_of: dict[int, Any] = {}

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """See :meth:`Searcher.search <merlin_poeem.Searcher.search>`."""
        request = SearchRequest.of(self.index, queries, k, n_probes, refine, exclude, allow)
        item_filter = Filter.of(self.index, request)
        if request.refine:
            _ = self.index.vectors  # read once, and not by each thread

        def search_share(share: slice) -> Candidates:
            queries_rot = request.queries_rot[share]
            batch = self._open_batch(queries_rot, request.n_probes, item_filter.of_queries(share))
            scores, rows = self._search_batch(batch, request.n_candidates)
            if request.refine:
                scores, rows = look_again(self.index, queries_rot, rows, request.k)
            return self._candidates(scores, rows)

        width = max(min(request.n_candidates, self.index.n_items), request.n_probes)
        return Candidates.concatenated(self._in_threads(search_share, len(request), width))

    def _in_threads(
        self, search_share: Callable[[slice], Candidates], n_queries: int, width: int
    ) -> list[Candidates]:
        """``search_share`` of every share of the queries, as many at once as Faiss has threads.

        Of many queries each share stays on one thread from its lists to its candidates: they wait
        for each other once, where Faiss' own threads would in every step.
        """
        n_threads = openmp.n_threads(self._faiss)
        shortest = MIN_SHARE_RESCORED if self._cosines or self._scales else MIN_SHARE
        longest = max(1, n_queries)
        if 1 < n_threads <= n_queries // shortest:
            longest = max(shortest, -(-n_queries // (SHARES_PER_THREAD * n_threads)))
        shares = list(blocks(n_queries, 12 * width * n_threads, longest))
        if len(shares) == 1:
            return [search_share(shares[0])]
        # The setting is the calling thread's own: Faiss keeps its threads everywhere else.
        with ThreadPoolExecutor(
            n_threads, initializer=self._faiss.omp_set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(search_share, shares))

    def _open_batch(self, queries_rot: Float32, n_probes: int, item_filter: Filter) -> Batch:
        probes, list_scores = self._choose_lists(queries_rot, n_probes)
        queries = queries_rot - self._origin
        if self._cosines is not None:
            queries = self._cosines.scale * queries
        if self._scales is not None:
            queries = self._scales.widen(queries)
        if list_scores is None:
            list_scores = self._list_scores(queries, probes)
        n_scanned = self.index.list_sizes[probes].sum(axis=1)
        return Batch(queries, probes, list_scores, n_scanned, item_filter)

    def _choose_lists(self, queries_rot: Float32, n_probes: int) -> tuple[Int64, Float32 | None]:
        """The best lists of each query (n, n_probes), and Faiss' scores of them if they serve."""
        queries = queries_rot - self._origin
        one_more = min(n_probes + 1, self.index.n_lists)
        scores, probes = self._list_chooser.search(queries, one_more)
        tied: Int64 = np.empty(0, np.int64)
        if one_more > n_probes:
            tied = self._list_ties.find(queries, scores[:, n_probes - 1], scores[:, n_probes])
        probes = np.ascontiguousarray(probes[:, :n_probes])
        if len(tied):
            probes[tied] = self._by_definition(queries_rot[tied], n_probes)
        if self._scans_distances or self._scales is not None or self._has_factors or len(tied):
            # Lists may be chosen by another score; Faiss' own of l2 come from
            # ‖q‖² − 2⟨q, c⟩ + ‖c‖², which is inexact where q is close to c.
            return probes, None
        return probes, np.ascontiguousarray(scores[:, :n_probes])

    def _by_definition(self, queries_rot: Float32, n_probes: int) -> Int64:
        best: Int64 = np.empty((len(queries_rot), n_probes), np.int64)
        for block in blocks(len(queries_rot), 16 * self.index.n_lists):
            scores = reference.list_scores(
                self.index.quantization,
                queries_rot[block],
                self.index.params.metric,
                self.index.list_factors,
            )
            best[block] = np.argsort(-scores, axis=1, kind="stable")[:, :n_probes]
        return best

    def _list_scores(self, queries: Float32, probes: Int64) -> Float32:
        """Faiss' score of each query's ``probes``: ⟨q, c⟩ or ‖q − c‖², shape of ``probes``."""
        score = self._faiss.fvec_inner_products_by_idx
        if self._scans_distances:
            score = self._faiss.fvec_L2sqr_by_idx
        scores = np.empty(probes.shape, np.float32)
        pointers = map(self._faiss.swig_ptr, (scores, queries, self._centroids, probes))
        score(*pointers, self._centroids.shape[1], *probes.shape)
        return scores

    def _search_batch(self, batch: Batch, k: int) -> tuple[Float32, Int64]:
        """Scores and rows of the ``k`` best, both (n, at most k), best first, by their codes.

        Rows are −1, and scores −inf, where there is no item.
        """
        n_queries = len(batch.n_scanned)
        k = min(k, int(batch.n_scanned.max(initial=0)))
        scores: Float32 = np.empty((n_queries, k), np.float32)
        rows: Int64 = np.full((n_queries, k), -1, np.int64)
        if self._scales is not None:
            self._scales.aim(batch, k)
        rescoring = self._cosines or self._scales
        work = by_width(batch.item_filter.n_excluded, self._first_width(k)) if k else []
        while work:
            chosen, width = work.pop()
            part = batch.take(chosen)
            width = min(width, int(part.n_scanned.max()) or 1)
            part_scores, part_rows, settled = settle(
                part, *self._scan(part, width), k, rescoring, self.index.item_ids
            )
            if len(chosen) == n_queries and width >= k:
                # The common case, without a copy; what is not settled yet is overwritten.
                scores, rows = part_scores[:, :k], part_rows[:, :k]
            else:
                done, columns = chosen[settled], min(k, width)
                scores[done, :columns] = part_scores[settled, :k]
                rows[done, :columns] = part_rows[settled, :k]
            unsettled = chosen[~settled]
            if self._scales is not None and width >= k:
                self._scales.aim_at(batch, unsettled, part_scores[~settled, k - 1])
            work += split(unsettled, width * GROWTH)
        return scores, rows

    def _first_width(self, k: int) -> int:
        """Results that the first scan asks for; one more than k shows a tie across the boundary."""
        if self._cosines is not None:
            return (k + 1) * COSINE_WIDTH
        if self._scales is not None:
            return self._scales.first_width(k)
        return k + 1

    def _candidates(self, scores: Float32, rows: Int64) -> Candidates:
        """Both (n, k), best first, rows −1 where there is no item."""
        found = rows >= 0
        if found.all():
            counts = np.full(len(rows), rows.shape[1])
            return Candidates(counts, scores.ravel(), self.index.item_ids[rows].ravel())
        return Candidates(found.sum(axis=1), scores[found], self.index.item_ids[rows[found]])

    def _scan(self, batch: Batch, width: int) -> tuple[Float32, Int64]:
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

    def _selector_of_all(self, item_filter: Filter) -> Any:
        """Faiss' selector of the rows that any query may return, None where that is every row."""
        if item_filter.eligible is None:
            return None
        return self._faiss.IDSelectorBitmap(np.packbits(item_filter.eligible, bitorder="little"))

    def _scan_lists(
        self, batch: Batch, queries: slice, selector: Any, scores: Float32, rows: Int64
    ) -> None:
        n_queries, width = scores[queries].shape
        params = self._parameters(batch.probes.shape[1], selector)
        arrays = (batch.queries_rot, batch.probes, batch.list_scores, scores, rows)
        x, probes, list_scores, scores_out, rows_out = (
            self._faiss.swig_ptr(array[queries]) for array in arrays
        )
        self._ivfpq.search_preassigned_c(
            n_queries, x, width, probes, list_scores, scores_out, rows_out, False, params
        )

    def _parameters(self, n_probes: int, selector: Any) -> Any:
        """Of a scan; kept where there is no selector, as making one takes as long as a scan."""
        if selector is not None:
            return self._faiss.SearchParametersIVF(nprobe=n_probes, sel=selector)
        if n_probes not in self._parameters_of:
            self._parameters_of[n_probes] = self._faiss.SearchParametersIVF(nprobe=n_probes)
        return self._parameters_of[n_probes]


def _compared_centroids(index: Index) -> Float32:
    """(n_lists, dim): a query's product with a row is the list's score, unless the metric is l2."""
    centroids = index.quantization.coarse_centroids
    if index.list_factors is not None:
        return centroids * index.list_factors[:, None]
    return normalize(centroids) if index.params.metric == "cosine" else centroids
