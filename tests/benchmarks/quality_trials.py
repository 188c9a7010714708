"""A made-up trial of the quality benchmark: clustered vectors, right and excluded items."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import pytest

from benchmarks.quality.parts import VALIDATION
from benchmarks.quality.relevance import Relevance
from benchmarks.quality.trial import Trial, TrialName
from benchmarks.quality.variants import variant_of
from merlin_poeem import IdLists, Index, IVFPQParams, fit
from merlin_poeem.arrays import normalize
from merlin_poeem.evaluate import exact_search

N_ITEMS, N_QUERIES, DIM, N_LISTS = 400, 50, 16, 6


def make_trial(
    variant: str = "ours-8",
    seed: int = 0,
    task: str = "movielens-1m",
    part: str = VALIDATION,
) -> Trial:
    """Clustered vectors; a query's right and excluded items are among its nearest ones."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, DIM))
    vectors = centres[rng.integers(0, 12, N_ITEMS)] + 0.4 * rng.normal(size=(N_ITEMS, DIM))
    vectors = normalize(vectors.astype(np.float32))
    item_ids = 7 + 3 * rng.permutation(N_ITEMS)
    queries = normalize(
        vectors[:N_QUERIES] + 0.1 * rng.normal(size=(N_QUERIES, DIM)).astype(np.float32)
    )
    nearest = exact_search(item_ids, vectors, queries, k=30).padded(30, fill_id=0)[1]
    index = None
    options = variant_of(variant)
    if options.pq_dim is not None:
        params = IVFPQParams(
            n_lists=N_LISTS, pq_dim=options.pq_dim, pq_bits=options.pq_bits, metric="cosine"
        )
        index = Index.from_vectors(
            params, fit(params, vectors, rotation=False, seed=seed), item_ids, vectors
        )
    return Trial(
        name=TrialName(task, variant, seed, part),
        queries=queries,
        item_ids=item_ids,
        item_vectors=vectors,
        relevance=Relevance.of_each(IdLists.from_rows(nearest[:, ::2])),
        exclude=IdLists.from_rows([row[: 1 + i % 5] for i, row in enumerate(nearest)]),
        index=index,
        item_frequencies=1 + np.arange(N_ITEMS) % 7,
        train_queries=queries[::2],
        facts={
            "n_lists": N_LISTS,
            "seconds": 2.0,
            "export_seconds": 0.5,
        },
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Faiss' threads wait for each other in busy loops: slow beside other tests."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)
