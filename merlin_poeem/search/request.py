"""What a search is asked for, checked once and alike for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merlin_poeem.arrays import Float32, as_vectors, check_on_host, largest_value, normalize
from merlin_poeem.quantization.params import check_n_probes, count, positive_int
from merlin_poeem.search.item_set import ItemFilter, as_item_filter
from merlin_poeem.search.ragged import IdLists

if TYPE_CHECKING:
    from merlin_poeem.index.flat_index import FlatIndex
    from merlin_poeem.index.index import Index


@dataclass(frozen=True)
class SearchRequest:
    """The arguments of :meth:`Searcher.search <merlin_poeem.Searcher.search>`."""

    queries_rot: Float32
    """(n_queries, dim) float32, rotated (of a flat index raw); of unit length for cosine."""

    k: int
    n_probes: int
    refine: int
    exclude: ItemFilter | None
    allow: ItemFilter | None

    @classmethod
    def of(
        cls,
        index: Index,
        queries: Any,
        k: Any,
        n_probes: Any,
        refine: Any,
        exclude: Any,
        allow: Any,
    ) -> SearchRequest:
        """Check what came from outside; raises what ``Searcher.search`` promises.

        For searchers on the host: CuPy arrays are a ``TypeError``.
        """
        n_probes = index.params.n_probes if n_probes is None else n_probes
        n_probes = check_n_probes(n_probes, index.n_lists)
        queries, k, *filters = _checked(index, queries, k, exclude, allow)
        refine = index.refine_of(k) if refine is None else check_refine(index, refine)
        return cls(index.quantization.rotate_queries(queries), k, n_probes, refine, *filters)

    @classmethod
    def of_flat(
        cls,
        index: FlatIndex,
        queries: Any,
        k: Any,
        n_probes: Any,
        refine: Any,
        exclude: Any,
        allow: Any,
    ) -> SearchRequest:
        """The same for a flat index, which has neither lists nor codes."""
        check_flat(n_probes, refine)
        queries, k, *filters = _checked(index, queries, k, exclude, allow)
        return cls(queries, k, 0, 0, *filters)

    @property
    def n_candidates(self) -> int:
        """Items that the codes choose for each query: ``k``, or as many times it as are refined."""
        return self.k * max(1, self.refine)

    def __len__(self) -> int:
        return len(self.queries_rot)


def _checked(
    index: Index | FlatIndex, queries: Any, k: Any, exclude: Any, allow: Any
) -> tuple[Float32, int, ItemFilter | None, ItemFilter | None]:
    check_on_host("queries", queries)
    queries = as_vectors("queries", queries, index.dim, largest=largest_value(index.metric))
    k = positive_int("k", k)
    exclude = as_item_filter("exclude", exclude, len(queries))
    allow = as_item_filter("allow", allow, len(queries))
    for name, given in (("exclude", exclude), ("allow", allow)):
        if isinstance(given, IdLists):
            check_on_host(name, given.values)
    return normalize(queries) if index.metric == "cosine" else queries, k, exclude, allow


def check_flat(n_probes: Any, refine: Any) -> None:
    """``ValueError`` for what a flat index has not: lists to probe, and codes to refine."""
    if n_probes is not None:
        raise ValueError(f"n_probes: expected None, as a flat index has no lists; got {n_probes}")
    if refine is not None and count("refine", refine):
        raise ValueError(
            f"refine: expected 0 or None, as a flat index scores vectors alone; got {refine}"
        )


def check_refine(index: Index, refine: Any) -> int:
    """``refine`` as an int; ``ValueError`` below 0, and above where ``index`` has no vectors."""
    checked = count("refine", refine)
    if checked and not index.has_vectors:
        raise ValueError(
            f"refine: expected 0, as the index holds no vectors; got {checked}: store them when it "
            "is made (store_vectors='float16'), or with Index.with_vectors"
        )
    return checked
