"""What a search is asked for, checked once and alike for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merlin_poeem.arrays import Float32, as_vectors, check_on_host, largest_value, normalize
from merlin_poeem.quantization.params import check_n_probes, positive_int
from merlin_poeem.search.item_set import ItemFilter, as_item_filter
from merlin_poeem.search.ragged import IdLists

if TYPE_CHECKING:
    from merlin_poeem.index.index import Index


@dataclass(frozen=True)
class SearchRequest:
    """The arguments of :meth:`Searcher.search <merlin_poeem.search.searcher.Searcher.search>`."""

    queries_rot: Float32
    """(n_queries, dim) float32, rotated; of unit length where the metric is cosine."""

    k: int
    n_probes: int
    exclude: ItemFilter | None
    allow: ItemFilter | None

    @classmethod
    def of(
        cls, index: Index, queries: Any, k: Any, n_probes: Any, exclude: Any, allow: Any
    ) -> SearchRequest:
        """Check what came from outside; raises what ``Searcher.search`` promises.

        For searchers on the host: CuPy arrays are a ``TypeError``.
        """
        check_on_host("queries", queries)
        largest = largest_value(index.params.metric)
        queries = as_vectors("queries", queries, index.dim, largest=largest)
        k = positive_int("k", k)
        n_probes = index.params.n_probes if n_probes is None else n_probes
        n_probes = check_n_probes(n_probes, index.n_lists)
        exclude = as_item_filter("exclude", exclude, len(queries))
        allow = as_item_filter("allow", allow, len(queries))
        for name, given in (("exclude", exclude), ("allow", allow)):
            if isinstance(given, IdLists):
                check_on_host(name, given.values)
        if index.params.metric == "cosine":
            queries = normalize(queries)
        return cls(index.quantization.rotate(queries), k, n_probes, exclude, allow)

    def __len__(self) -> int:
        return len(self.queries_rot)
