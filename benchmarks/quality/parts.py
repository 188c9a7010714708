"""What is looked for: pairs held out of the training ones, to choose by, or the test pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd

VALIDATION, TEST = "validation", "test"
PARTS = (VALIDATION, TEST)
HELD_SHARE = 10
"""One pair in so many of a user's is held out."""
FEWEST_PAIRS = 5
"""A user with fewer keeps all of them."""


def held_out(pairs: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``pairs`` (columns with ``user_id``) split into what is trained on and what is to be found.

    Of a user with ``FEWEST_PAIRS`` or more, a tenth is held out, rounded down, but at least one.
    The same pairs and ``seed`` give the same split.
    """
    pairs = pairs.reset_index(drop=True)
    users = pairs["user_id"].sample(frac=1, random_state=np.random.default_rng(seed))
    place = users.groupby(users).cumcount()
    n_pairs = users.groupby(users).transform("size")
    n_held = np.maximum(1, n_pairs // HELD_SHARE).where(n_pairs >= FEWEST_PAIRS, 0)
    is_held = (place < n_held).sort_index()
    return pairs[~is_held].reset_index(drop=True), pairs[is_held].reset_index(drop=True)
