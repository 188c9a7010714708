"""Error weights: which errors of an item vector change its scores."""

from __future__ import annotations

import numpy as np
import pytest

from merlin_poeem import IVFPQParams, error_weights, open_searcher
from merlin_poeem.evaluate import agreement, exact_search
from merlin_poeem.fit import fit
from merlin_poeem.index import Index


def test_weights_are_even_where_queries_are() -> None:
    np.testing.assert_allclose(error_weights.from_query_moments(7 * np.eye(3)), np.eye(3))


def test_no_queries_give_the_identity() -> None:
    np.testing.assert_array_equal(error_weights.from_query_moments(np.zeros((3, 3))), np.eye(3))


def test_weights_follow_the_queries() -> None:
    weights = error_weights.from_query_moments(np.diag([4.0, 1.0, 1.0]))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(np.trace(weights), 3, rtol=1e-6)
    share = error_weights.PLAIN_SHARE
    np.testing.assert_allclose(weights[0, 0] / weights[1, 1], (2 + share) / (0.5 + share))


def test_length_of_a_query_does_not_count() -> None:
    queries = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    longer = np.concatenate([queries * np.arange(1, 10)[:, None], np.zeros((5, 4))])
    np.testing.assert_allclose(
        error_weights.of_queries(longer), error_weights.of_queries(queries), rtol=1e-5
    )


def test_weights_are_symmetric_though_the_moments_are_rounded() -> None:
    moments = np.array([[1, 0.5], [0.5000001, 1]], np.float32)
    weights = error_weights.from_query_moments(moments)
    np.testing.assert_array_equal(weights, weights.T)


@pytest.mark.parametrize("rotation", [True, False])
def test_codes_made_for_the_queries_agree_better_with_exact_search(rotation: bool) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(16, 16)) * 0.7 ** np.arange(16)
    items = rng.normal(size=(2000, 16)).astype(np.float32)
    queries = (rng.normal(size=(300, 16)) @ mixing.T).astype(np.float32)
    params = IVFPQParams(n_lists=4, pq_dim=4, pq_bits=4)
    exact = exact_search(np.arange(2000), items, queries, k=20)
    found = {}
    for known in (None, queries[:150]):
        quantization = fit(params, items, queries=known, rotation=rotation)
        searcher = open_searcher(Index.from_vectors(params, quantization, np.arange(2000), items))
        found[known is None] = searcher.search(queries, k=20, n_probes=4)
    assert agreement(found[False], exact, 20) > agreement(found[True], exact, 20) + 0.02
