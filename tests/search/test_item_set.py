"""One set of item ids for every query."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import ItemSet
from merlin_poeem.evaluate import exact_search

IDS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1))


@given(IDS)
def test_holds_each_id_once_in_order(ids: list[int]) -> None:
    item_set = ItemSet(ids)
    assert item_set.item_ids.tolist() == sorted(set(ids))
    assert item_set.item_ids.dtype == np.int64
    assert len(item_set) == len(set(ids))
    assert item_set.row(0) is item_set.row(7) is item_set.item_ids


def test_takes_every_kind_of_integers() -> None:
    for ids in ((3, 1, 3), np.array([3, 1], np.uint8), np.array([1, 3], object)):
        assert ItemSet(ids).item_ids.tolist() == [1, 3]


def test_cannot_be_changed() -> None:
    ids = np.array([1, 2])
    item_set = ItemSet(ids)
    with pytest.raises(ValueError, match="read-only"):
        item_set.item_ids[0] = 5
    ids[0] = 7
    assert item_set.item_ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1.5], TypeError, "item_ids: expected integers, got 1.5"),
        (np.array([1.0]), TypeError, "item_ids: expected integers, got float64"),
        (["a"], TypeError, "item_ids: expected integers"),
        ([1, None], TypeError, "item_ids: expected integers, got None"),
        ([[1, 2]], ValueError, r"item_ids: expected one dimension \(n,\), got shape \(1, 2\)"),
        (3, ValueError, "item_ids: expected one dimension"),
        ([2**63], ValueError, "item_ids: expected values that fit in int64"),
    ],
)
def test_bad_input(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ItemSet(ids)


def test_exact_search_excludes_it() -> None:
    vectors = np.eye(4, dtype=np.float32)
    got = exact_search(np.arange(4), vectors, vectors[:2], k=4, exclude=ItemSet([1, 9]))
    assert got.item_ids.tolist() == [0, 2, 3, 0, 2, 3]


def test_is_copied_from_the_device(cupy: Any) -> None:
    assert type(ItemSet(cupy.asarray([4, 2])).item_ids) is np.ndarray
