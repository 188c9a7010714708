"""FlatFaissSearcher: a flat index searched by Faiss, its ties put right.

Faiss multiplies by blocks, so that equal vectors may score a little apart, and returns ties in no
stated order. What it finds is scored again one by one; a query whose k-th result does not clearly
beat what Faiss left out is searched again for more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.quantization.fit import import_faiss
from merlin_poeem.search.faiss.filters import Filter
from merlin_poeem.search.faiss.portions import blocks, by_width, split
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.request import SearchRequest
from merlin_poeem.search.second_look import look_again
from merlin_poeem.search.shown import Shown

# Results beyond k of the first search, and how many times more the next one asks for.
MARGIN = 8
GROWTH = 4
# Of a sum of products in float32, relative to the lengths: a unit in the last place a term.
UNIT = 2.0**-23


class FlatFaissSearcher(Shown):
    """A :class:`~merlin_poeem.FlatIndex` opened in Faiss, which keeps its vectors in float32.

    Raises ``ImportError`` where faiss-cpu is not installed.
    """

    backend = "faiss"
    on_device = False

    def __init__(self, index: FlatIndex) -> None:
        self.index = index
        self._faiss = import_faiss()
        flat = self._faiss.IndexFlatL2 if index.metric == "l2" else self._faiss.IndexFlatIP
        self._flat = flat(index.dim)
        for part in index.vectors.decoded_parts():
            self._flat.add(np.ascontiguousarray(part))

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
        """See :meth:`Searcher.search <merlin_poeem.Searcher.search>`.

        ``n_probes`` has to be None, and ``refine`` 0 or None.
        """
        request = SearchRequest.of_flat(self.index, queries, k, n_probes, refine, exclude, allow)
        item_filter = Filter.of(self.index, request)
        k = min(request.k, self.index.n_items)
        scores = np.full((len(request), k), -np.inf, np.float32)
        rows = np.full((len(request), k), -1, np.int64)
        if k and item_filter.allowed is not None:
            for i in range(len(request)):
                self._keep(
                    scores, rows, np.array([i]), *self._best_allowed(request, item_filter, i)
                )
        elif k:
            self._search_all(request, item_filter, scores, rows)
        found = rows >= 0
        return Candidates(found.sum(axis=1), scores[found], self.index.item_ids[rows[found]])

    def _best_allowed(
        self, request: SearchRequest, item_filter: Filter, i: int
    ) -> tuple[Float32, Int64]:
        allowed = item_filter.allowed_rows(i)[None]
        return look_again(self.index, request.queries_rot[i : i + 1], allowed, request.k)

    def _search_all(
        self, request: SearchRequest, item_filter: Filter, scores: Float32, rows: Int64
    ) -> None:
        """Fill ``scores`` and ``rows``, both (n, k), best first."""
        k = scores.shape[1]
        work = by_width(item_filter.n_excluded, min(k + MARGIN, self.index.n_items))
        while work:
            chosen, width = work.pop()
            width = min(width, self.index.n_items)
            queries, some = request.queries_rot[chosen], item_filter.take(chosen)
            bounds, found = self._scan(queries, some, width)
            some.drop_excluded(np.empty(found.shape, np.float32), found)
            best, best_rows = look_again(self.index, queries, found, k)
            settled = best[:, -1] > bounds if best.shape[1] == k else np.zeros(len(chosen), bool)
            settled |= np.isneginf(bounds) | (width == self.index.n_items)
            self._keep(scores, rows, chosen[settled], best[settled], best_rows[settled])
            work += split(chosen[~settled], width * GROWTH)

    def _scan(self, queries: Float32, item_filter: Filter, width: int) -> tuple[Float32, Int64]:
        """What no item that is left out scores above (n,), and the rows (n, width) found."""
        params = None
        if item_filter.eligible is not None:
            bits = np.packbits(item_filter.eligible, bitorder="little")
            params = self._faiss.SearchParameters(sel=self._faiss.IDSelectorBitmap(bits))
        origin = self.index.vectors.origin
        moved = queries if origin is None else queries - origin
        bounds: Float32 = np.empty(len(queries), np.float32)
        rows: Int64 = np.empty((len(queries), width), np.int64)
        for block in blocks(len(queries), 12 * width):
            found, rows[block] = self._flat.search(moved[block], width, params=params)
            bounds[block] = found[:, -1]
        lengths = np.sqrt(np.einsum("nd,nd->n", moved, moved)).astype(np.float64)
        if self.index.metric == "l2":
            bounds = -bounds
            sizes = (lengths + self.index.largest_length) ** 2
        else:
            sizes = lengths * self.index.largest_length
        bounds = np.asarray(bounds + 2 * self.index.dim * UNIT * sizes, np.float32)
        # Where fewer were left than asked for, all are there.
        return np.where(rows[:, -1] < 0, -np.inf, bounds), rows

    @staticmethod
    def _keep(scores: Float32, rows: Int64, chosen: Int64, best: Float32, best_rows: Int64) -> None:
        columns = best.shape[1]
        scores[chosen, :columns], rows[chosen, :columns] = best, best_rows
