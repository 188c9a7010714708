"""A space where what is near scores alike: stretched along what queries look along."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from merlin_poeem.arrays import LARGEST_VALUE, Float32, as_vectors

STRETCH = 0.25
# Of the mean second moment over the directions. Where queries hardly look along one, a sample of
# them can't tell how little.
SMALLEST_MOMENT = 0.01


def check_stretch(amount: float) -> None:
    """``ValueError`` unless ``amount`` is from 0 to 1, ``TypeError`` for what is no number."""
    if not isinstance(amount, Real):
        raise TypeError(f"stretch: expected a number from 0 to 1, got {amount!r}")
    if not 0 <= amount <= 1:
        raise ValueError(f"stretch: expected 0 <= stretch <= 1, got {amount}")


def stretch(queries: Any, amount: float = STRETCH) -> tuple[Float32, Float32]:
    """What raw items and raw queries are multiplied with, so that distances tell of scores.

    A query q scores an item x and what stands for it, x̂, apart by ⟨q, x − x̂⟩. Over all queries
    the square of that is (x − x̂)ᵀ S (x − x̂) in the mean, S = E[qqᵀ]: a distance in the space of
    S^½ x. Lists and codes that are the nearest there, and not in the raw space, lose fewer of a
    query's items (QUIP, Guo et al., AISTATS 2016, section 3.1). What queries hardly look along may
    still be what tells the items of one query apart, so that part of the way is better than all of
    it (docs/trials.md).

    Parameters
    ----------
    queries
        (n, dim) float32, raw space, of unit length where the metric is cosine: what the query tower
        makes of a few thousand training users or more.
    amount
        0 leaves the space as it is, 1 makes distances the expected difference of scores.

    Returns
    -------
    of_items, of_queries
        (dim, dim) float32, symmetric, the inverse of each other: ⟨q @ of_queries, x @ of_items⟩ =
        ⟨q, x⟩. Vectors that are alike in all directions keep their mean squared length.

    Raises
    ------
    TypeError, ValueError
        Queries that are not finite float32 (n, dim), none of them, or all of them zero; an
        ``amount`` below 0 or above 1.
    """
    queries = as_vectors("queries", queries, largest=LARGEST_VALUE)
    check_stretch(amount)
    if not queries.any():
        raise ValueError("queries: expected at least one that is not all zeros, got none")
    unit = queries.astype(np.float64) / np.abs(queries).max()
    moments, directions = np.linalg.eigh(unit.T @ unit)
    moments = np.maximum(moments, SMALLEST_MOMENT * moments.mean())
    widths = moments ** (amount / 2)
    widths /= np.sqrt(np.mean(widths**2))
    of_items, of_queries = ((directions * each) @ directions.T for each in (widths, 1 / widths))
    return of_items.astype(np.float32), of_queries.astype(np.float32)
