"""Raw values and their numbers, in files that are mapped."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.serving.vocabulary import Vocabulary

UNKNOWN = 2
KINDS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float64": st.floats(allow_nan=False),
    "object": st.text(),
}


@pytest.mark.parametrize("dtype", KINDS)
@given(data=st.data())
def test_it_is_a_dictionary(dtype: str, data: Any) -> None:
    values = data.draw(st.lists(KINDS[dtype], unique=True, min_size=1))
    codes = np.array(data.draw(st.permutations(range(3, 3 + len(values)))))
    wanted = data.draw(st.lists(st.sampled_from(values) | KINDS[dtype]))
    vocabulary = Vocabulary.of(np.array(values, dtype), codes)
    with TemporaryDirectory() as folder:
        vocabulary.save(Path(folder), "some")
        loaded = Vocabulary.load(Path(folder), "some")
        for one in (vocabulary, loaded):
            got = one.codes_of(np.array(wanted, dtype), UNKNOWN)
            numbers = dict(zip(values, codes.tolist(), strict=True))
            assert got.dtype == np.int64
            assert got.tolist() == [numbers.get(value, UNKNOWN) for value in wanted]


def test_many_texts() -> None:
    texts = np.array([f"user {i}" for i in range(5000)], object)
    vocabulary = Vocabulary.of(texts, np.arange(5000))
    np.testing.assert_array_equal(vocabulary.codes_of(texts, -1), np.arange(5000))
    others = np.array([f"user {i}\0" for i in range(5000)], object)
    assert (vocabulary.codes_of(others, -1) == -1).all()


def test_integers_are_looked_up_among_floats_and_nan_is_unknown() -> None:
    vocabulary = Vocabulary.of(np.array([2.0, 3.5]), np.array([7, 8]))
    assert vocabulary.codes_of(np.array([3, 2]), UNKNOWN).tolist() == [UNKNOWN, 7]
    assert vocabulary.codes_of(np.array([np.nan]), UNKNOWN).tolist() == [UNKNOWN]


def test_a_value_that_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary: expected each value once, got 'a' again"):
        Vocabulary.of(np.array(["a", "b", "a"], object), np.arange(3))
