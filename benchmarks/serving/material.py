"""What is served and asked: a made-up catalog, its index, and which items are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.catalogs import Catalog, build_index
from merlin_poeem import IdLists, Index, save_index
from merlin_poeem.arrays import Float32
from merlin_poeem.evaluate import exact_search, recall_at_k

RECALL_QUERIES = 256


@dataclass(frozen=True, eq=False)
class Material:
    """An index and queries for it; all that is timed asks the same."""

    index: Index
    index_path: Path
    queries: Float32
    """(n, dim)."""
    queries_path: Path
    """The same in a file."""
    relevant: IdLists
    """The exact first ``k`` of the first queries."""
    k: int

    def recall(self, item_ids: np.ndarray) -> float:
        """Of (n, k) ids found for the first queries: the share of the exact first ``k``."""
        return recall_at_k(item_ids, self.relevant, self.k)


def made_up(
    *,
    n_items: int,
    dim: int,
    code_bytes: int,
    n_lists: int,
    n_probes: int,
    n_queries: int,
    k: int,
    catalogs: Path,
    folder: Path,
) -> Material:
    """A catalog's index, without what raw Faiss has not, saved in ``folder`` beside its queries."""
    catalog = Catalog("clustered", n_items, dim)
    index = build_index(catalog, code_bytes=code_bytes, n_lists=n_lists, folder=catalogs)
    index = index.with_n_probes(n_probes)
    index_path, queries_path = folder / "index", folder / "queries.npy"
    save_index(index, index_path)
    queries = catalog.queries(n_queries)
    np.save(queries_path, queries)
    exact = exact_search(
        catalog.item_ids(), np.concatenate(list(catalog.chunks())), queries[:RECALL_QUERIES], k=k
    )
    relevant = IdLists.from_rows([exact[i][1] for i in range(len(exact))])
    return Material(index, index_path, queries, queries_path, relevant, k)
