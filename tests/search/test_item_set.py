"""One set of item ids for every query."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import ItemSet
from merlin_poeem.evaluate import exact_search
from merlin_poeem.search.item_set import as_item_filter, is_flat

IDS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1))


@given(IDS)
def test_holds_each_id_once_in_order(ids: list[int]) -> None:
    item_set = ItemSet(ids)
    assert item_set.item_ids.tolist() == sorted(set(ids))
    assert item_set.item_ids.dtype == np.int64
    assert len(item_set) == len(set(ids))
    assert item_set.row(0) is item_set.row(7) is item_set.item_ids


def test_takes_every_kind_of_integers() -> None:
    series = pd.Series([3, 1], index=["a", "b"])
    kinds = ((3, 1, 3), {3, 1}, frozenset([1, 3]), {1: "a", 3: "b"}.keys(), range(1, 4, 2))
    arrays = (np.array([3, 1], np.uint8), np.array([1, 3], object))
    for ids in (*kinds, *arrays, series, series.astype("Int64"), pd.Index(series)):
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


@given(IDS, st.integers(0, 4))
def test_flat_is_what_holds_no_lists(ids: list[int], n_queries: int) -> None:
    for flat in (ids, tuple(ids), set(ids), pd.Series(ids, dtype=object)):
        assert is_flat(flat, if_empty=True)
        assert is_flat(flat) == (len(ids) > 0 or isinstance(flat, set))
    for lists in ([ids] * n_queries, [np.array(ids, object)] * n_queries, [None, ids], [None]):
        assert not is_flat(lists)
        assert as_item_filter("x", [*lists, ids], len(lists) + 1).row(len(lists)).tolist() == ids


@pytest.mark.parametrize("name", ["exclude", "allow"])
def test_filters_of_cudf_columns_and_arrays_on_the_device(cudf: Any, name: str) -> None:
    from tests.device_frames import Index, Series, cupy

    for kind in (Series, Index, lambda ids: ids):
        item_filter = as_item_filter(name, kind(cupy.asarray([4, 2, 4])), 3)
        assert isinstance(item_filter, ItemSet)
        assert item_filter.item_ids.tolist() == [2, 4]
