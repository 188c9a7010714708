"""Which choices of lists rounding may have made: those are left to the definition."""

from __future__ import annotations

import numpy as np

from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.quantization.lengths import lengths_of
from merlin_poeem.quantization.params import Metric

# What two scores of one list may differ by, as a part of the terms that they are the sum of.
ROUNDING = 5e-7
# Centroids of more than this many times the median length are looked at one by one.
LONG = 8


class ListTies:
    """Finds the queries whose lists Faiss may have chosen otherwise than the definition.

    They are those where some list's score is nearer to the boundary, midway between the last list
    chosen and the best one left, than rounding moves it. No list may speak for others: by one far
    centroid all would be near.
    """

    def __init__(self, centroids: Float32, metric: Metric) -> None:
        """``centroids`` (n_lists, dim) are those that Faiss compares queries with."""
        self._metric = metric
        lengths = lengths_of(centroids)
        is_long = lengths > LONG * np.median(lengths)
        self._longest_other = lengths[~is_long].max()
        self._long, self._long_lengths = centroids[is_long], lengths[is_long]

    def find(self, queries: Float32, chosen: Float32, left: Float32) -> Int64:
        """Numbers of those queries.

        ``queries`` (n, dim) as Faiss compares them; ``chosen`` and ``left`` (n,) its scores of the
        last list chosen and of the best one left.
        """
        lengths = lengths_of(queries)
        if self._metric == "l2":
            # ‖q‖² − 2⟨q, c⟩ + ‖c‖² is rounded as (‖q‖ + ‖c‖)² is, and ‖c‖ ≤ ‖q‖ + ‖q − c‖. A list
            # farther off than ``left`` is farther beyond the boundary than its rounding grows.
            sizes = (2 * lengths + np.sqrt(left)) ** 2
            return np.flatnonzero(left - chosen <= 2 * ROUNDING * sizes)
        tied = chosen - left <= 2 * ROUNDING * self._longest_other * lengths
        if len(self._long):
            # ⟨q, c⟩ says nothing of ‖c‖: lists on either side may be long ones.
            boundary = (chosen / 2 + left / 2)[:, None]
            distances = np.abs(queries @ self._long.T - boundary)
            tied |= (distances <= 2 * ROUNDING * np.outer(lengths, self._long_lengths)).any(axis=1)
        return np.flatnonzero(tied)
