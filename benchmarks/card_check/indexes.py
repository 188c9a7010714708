"""Small indexes and queries of which the NumPy definition gives the answers at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from merlin_poeem import Index
from merlin_poeem.quantization.stored_vectors import VectorDtype
from tests.index_factories import random_index, random_queries

N_LISTS, N_PROBES = 24, 8


@cache
def small_index(
    metric: str = "inner_product",
    *,
    n_items: int = 3000,
    pq_dim: int = 8,
    pq_len: int = 4,
    vectors: VectorDtype | None = None,
) -> Index:
    """Of 24 lists, two of them empty; its codes take ``pq_dim`` bytes of ``pq_len`` dimensions."""
    return random_index(
        metric,
        n_items=n_items,
        n_lists=N_LISTS,
        n_probes=N_PROBES,
        pq_dim=pq_dim,
        pq_len=pq_len,
        rotation=True,
        vectors=vectors,
    )


def queries_of(index: Index, n: int) -> Any:
    """(n, dim) float32."""
    return random_queries(index, n)


def with_odd_rows(queries: Any) -> tuple[Any, Any]:
    """``queries`` with rows that have no answer, and which rows are left as they were."""
    odd = queries.copy()
    odd[0, 0] = np.nan
    odd[1, :2] = np.inf, -np.inf
    odd[2] = -np.inf
    odd[3, -1] = np.inf
    kept = np.arange(4, len(odd))
    return odd, kept


def with_large_rows(queries: Any, value: float) -> tuple[Any, Any]:
    """``queries`` with finite rows whose products pass float32, and which rows are left."""
    large = queries.copy()
    large[0] = value
    large[1] = np.where(np.arange(large.shape[1]) % 2, value, -value)
    large[2, 0] = value
    kept = np.arange(3, len(large))
    return large, kept
