"""A space stretched along what queries look along."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.quantization.stretch import SMALLEST_MOMENT, stretch


def make_queries(n: int, dim: int, seed: int) -> np.ndarray:
    """(n, dim) float32 that look along few directions."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(3, 0.01, dim)
    turned = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (rng.normal(size=(n, dim)) * spread @ turned).astype(np.float32)


@given(
    n=st.integers(1, 30),
    dim=st.integers(1, 9),
    amount=st.floats(0, 1),
    exponent=st.sampled_from([-30, 0, 14]),
    seed=st.integers(0, 99),
)
def test_the_two_are_symmetric_inverses_that_keep_products_and_lengths(
    n: int, dim: int, amount: float, exponent: int, seed: int
) -> None:
    queries = make_queries(n, dim, seed)
    of_items, of_queries = stretch(queries * np.float32(10.0**exponent), amount)
    for matrix in (of_items, of_queries):
        assert (matrix.shape, matrix.dtype) == ((dim, dim), np.float32)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    np.testing.assert_allclose(of_items @ of_queries, np.eye(dim), atol=1e-4)
    assert (of_items.astype(np.float64) ** 2).sum() == pytest.approx(dim, rel=1e-4)
    items = np.random.default_rng(seed + 1).standard_normal((5, dim)).astype(np.float32)
    kept = (queries @ of_queries) @ (items @ of_items).T
    np.testing.assert_allclose(kept, queries @ items.T, atol=1e-3)


def test_no_amount_changes_nothing() -> None:
    for matrix in stretch(make_queries(50, 6, 0), 0):
        np.testing.assert_allclose(matrix, np.eye(6), atol=1e-6)


def test_distances_are_the_expected_squared_differences_of_scores() -> None:
    rng = np.random.default_rng(0)
    queries = (rng.normal(size=(200, 6)) * [3, 2, 1, 1, 1, 1]).astype(np.float32)
    differences = rng.normal(size=(20, 6)).astype(np.float32)
    expected = ((queries @ differences.T) ** 2).mean(axis=0)
    of_items, _ = stretch(queries, 1)
    got = ((differences @ of_items) ** 2).sum(axis=1)
    np.testing.assert_allclose(got * (queries**2).mean(), expected, rtol=1e-4)
    # Halfway there the ratios are less far apart, and their order is the same.
    half, _ = stretch(queries, 0.5)
    widths, half_widths = (np.linalg.eigvalsh(matrix) for matrix in (of_items, half))
    np.testing.assert_allclose(half_widths[-1] / half_widths[0], (widths[-1] / widths[0]) ** 0.5)


def test_what_no_query_looks_along_is_not_lost() -> None:
    of_items, of_queries = stretch(np.float32([[5, 0, 0]]), 1)
    widths = np.diag(of_items)
    np.testing.assert_allclose(of_items, np.diag(widths), atol=1e-6)
    np.testing.assert_allclose(widths[0] / widths[1:], (3 / SMALLEST_MOMENT) ** 0.5, rtol=1e-5)
    assert np.isfinite(of_queries).all()


QUERIES = make_queries(4, 3, 0)


@pytest.mark.parametrize(
    ("queries", "amount", "error", "message"),
    [
        (QUERIES.astype(np.float64), 1, TypeError, "queries: expected float32, got float64"),
        (QUERIES[0], 1, ValueError, "queries: expected two dimensions"),
        (QUERIES * np.float32(np.nan), 1, ValueError, "queries: expected finite"),
        (QUERIES * np.float32(1e20), 1, ValueError, r"queries: expected values of at most 1e\+15"),
        (QUERIES[:0], 1, ValueError, "queries: expected at least one that is not all zeros"),
        (0 * QUERIES, 1, ValueError, "queries: expected at least one that is not all zeros"),
        (QUERIES, -0.1, ValueError, "stretch: expected 0 <= stretch <= 1, got -0.1"),
        (QUERIES, 1.1, ValueError, "stretch: expected 0 <= stretch <= 1, got 1.1"),
        (QUERIES, float("nan"), ValueError, "stretch: expected 0 <= stretch <= 1, got nan"),
    ],
)
def test_refused(queries: Any, amount: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stretch(queries, amount)


@pytest.mark.parametrize("amount", ["0.5", None, [0.5]])
def test_an_amount_that_is_no_number_is_named(amount: object) -> None:
    with pytest.raises(TypeError, match="stretch: expected a number from 0 to 1, got"):
        stretch(np.eye(3, dtype=np.float32), amount)  # type: ignore[arg-type]
