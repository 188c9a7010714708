"""How answers of the GPU searcher are compared with each other."""

from typing import Any

import numpy as np


def assert_same(got: Any, expected: Any) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(got.counts, expected.counts)
    np.testing.assert_array_equal(got.item_ids, expected.item_ids)
    np.testing.assert_array_equal(got.scores, expected.scores)
