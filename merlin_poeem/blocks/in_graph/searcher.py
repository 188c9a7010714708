"""TensorFlowSearcher: the in-graph search behind the protocol that every backend has."""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.blocks.in_graph.topk import IVFPQTopK
from merlin_poeem.index.index import Index
from merlin_poeem.search.item_set import ItemFilter, ItemSet
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.request import SearchRequest
from merlin_poeem.search.shown import Shown


class TensorFlowSearcher(Shown):
    """An index opened for search by :class:`~merlin_poeem.blocks.IVFPQTopK`.

    For :func:`~merlin_poeem.search_frame` and comparisons beside a model that
    searches in its graph; where no graph is involved, Faiss is the faster backend.
    """

    backend = "tensorflow"
    on_device = False

    def __init__(self, index: Index) -> None:
        self.index = index
        self.layer = IVFPQTopK.from_index(index)

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
        scores, item_ids, counts = self.layer.search(
            queries,
            min(request.k, max(1, self.index.n_items)),
            request.n_probes,
            min(request.refine, self.index.n_items),
            *_flat_ids(request.exclude),
            *_flat_ids(request.allow),
        )
        return as_candidates(scores.numpy(), item_ids.numpy(), counts.numpy())


def as_candidates(scores: Float32, item_ids: Int64, counts: Int64) -> Candidates:
    """Rows (n, k) filled up beyond ``counts`` (n,), as Candidates, which hold no fill."""
    is_result = np.arange(scores.shape[1]) < counts[:, None]
    return Candidates(counts, scores[is_result], item_ids[is_result])


def _flat_ids(given: ItemFilter | None) -> tuple[Int64, Int64]:
    """Values and offsets, as the layer's ``search`` takes them."""
    if given is None:
        return np.empty(0, np.int64), np.zeros(1, np.int64)
    if isinstance(given, ItemSet):
        return given.item_ids, np.array([0, len(given)], np.int64)
    return given.values, given.offsets
