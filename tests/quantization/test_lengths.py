"""Typical and longest rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.quantization.lengths import lengths_of, longest_length, typical_length


@given(st.floats(0, 1e15), st.integers(0, 30))
def test_few_far_rows_do_not_change_what_is_typical(far: float, n_zero: int) -> None:
    ordinary = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    others = [np.full((9, 4), far, np.float32), np.zeros((n_zero, 4), np.float32)]
    lengths = lengths_of(ordinary)
    assert lengths.min() <= typical_length(np.concatenate([ordinary, *others])) <= lengths.max()
    longest = longest_length(np.concatenate([ordinary, *others]))
    assert longest == pytest.approx(max(float(lengths.max()), 2 * far))


def test_rows_of_zeros() -> None:
    assert typical_length(np.zeros((3, 2), np.float32)) == 0
    assert longest_length(np.zeros((3, 2), np.float32)) == 0
