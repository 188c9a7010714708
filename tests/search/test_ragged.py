"""Id lists going in, candidates coming out."""

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import evaluate
from merlin_poeem.search.ragged import Candidates, IdLists
from tests.device_arrays import counting_reads, make_cupy, ndarray, share_memory

ROWS = st.lists(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4), max_size=5)


# Id lists.


@given(ROWS)
def test_id_lists_round_trip(rows: list[list[int]]) -> None:
    lists = IdLists.from_rows(rows)
    assert len(lists) == len(rows)
    assert [lists.row(i).tolist() for i in range(len(lists))] == rows
    assert lists.lengths.tolist() == [len(row) for row in rows]
    again = IdLists(lists.offsets, lists.values)
    np.testing.assert_array_equal(again.values, lists.values, strict=True)


@given(ROWS, st.sampled_from([np.int64, np.int32]))
def test_id_lists_keep_no_memory_of_the_caller(rows: list[list[int]], dtype: Any) -> None:
    expected = IdLists.from_rows(rows)
    offsets, values = expected.offsets.astype(dtype), expected.values.copy()
    lists = IdLists(offsets, values)
    offsets += 1
    values += 1
    for name in ("offsets", "values"):
        kept = getattr(lists, name)
        np.testing.assert_array_equal(kept, getattr(expected, name), strict=True)
        with pytest.raises(ValueError, match="read-only"):
            kept[...] = 0
    assert IdLists(lists.offsets, lists.values).offsets is lists.offsets  # no second copy


@given(ROWS, st.integers(0, 6), st.integers(0, 6))
def test_rows_of_id_lists(rows: list[list[int]], start: int, length: int) -> None:
    part = IdLists.from_rows(rows).rows(slice(start, start + length))
    expected = rows[start : start + length]
    assert [part.row(i).tolist() for i in range(len(part))] == expected


def test_none_is_an_empty_row() -> None:
    lists = IdLists.from_rows([None, [1], ()])
    assert lists.lengths.tolist() == [0, 1, 0]


def test_of_passes_id_lists_on() -> None:
    lists = IdLists.from_rows([[1], [2, 3]])
    assert IdLists.of("exclude", lists, 2) is lists
    assert IdLists.of("exclude", [[1], [2, 3]], 2).values.tolist() == [1, 2, 3]


def test_of_checks_the_number_of_rows() -> None:
    for lists in ([[1]], IdLists.from_rows([[1]])):
        with pytest.raises(ValueError, match="exclude: expected 2 lists, one a query; got 1"):
            IdLists.of("exclude", lists, 2)


@pytest.mark.parametrize("rows", [[[1.5]], [["x"]], [[1, None]]])
def test_rows_that_are_no_integers(rows: Any) -> None:
    with pytest.raises(TypeError, match="id list: expected integers"):
        IdLists.from_rows(rows)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "run from 0 to 3"),
        ([1, 3], "run from 0 to 3"),
        ([0, 2], "run from 0 to 3"),
        ([0, 4], "run from 0 to 3"),
        ([0, 2, 1, 3], "expected never to fall"),
    ],
)
def test_offsets_that_fit_no_values(offsets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"offsets: .*{message}"):
        IdLists(np.array(offsets, np.int64), np.arange(3))


# Candidates.

SCORES = st.lists(st.lists(st.floats(-9, 9, width=32), max_size=4), max_size=5)


def candidates(scores: list[list[float]]) -> Candidates:
    return Candidates.from_rows(
        [(np.array(row, np.float32), np.arange(len(row)) + 10 * i) for i, row in enumerate(scores)]
    )


@given(SCORES)
def test_candidates_round_trip(scores: list[list[float]]) -> None:
    found = candidates(scores)
    assert len(found) == len(scores)
    assert found.scores.dtype == np.float32
    assert found.item_ids.dtype == np.int64
    assert found.counts.tolist() == [len(row) for row in scores]
    assert found.offsets.tolist() == np.cumsum([0, *map(len, scores)]).tolist()
    numbers = [i for i, row in enumerate(scores) for _ in row]
    assert found.query_numbers.tolist() == numbers
    assert found.query_numbers.dtype == found.offsets.dtype == np.int64
    assert found.to_host() is found
    for i, row in enumerate(scores):
        for at in (i, i - len(scores)):
            np.testing.assert_array_equal(found[at][0], np.array(row, np.float32))
            np.testing.assert_array_equal(found[at][1], np.arange(len(row)) + 10 * i)


@given(SCORES)
def test_padded(scores: list[list[float]]) -> None:
    found = candidates(scores)
    k = max((len(row) for row in scores), default=0)
    padded, item_ids = found.padded(k, fill_id=-7, fill_score=-99)
    assert padded.shape == item_ids.shape == (len(scores), k)
    for i, row in enumerate(scores):
        fill = k - len(row)
        np.testing.assert_array_equal(padded[i], np.array(row + [-99] * fill, np.float32))
        assert item_ids[i].tolist() == found[i][1].tolist() + [-7] * fill


def test_padded_is_a_view_where_rows_are_full() -> None:
    found = candidates([[2, 1], [4, 3]])
    scores, item_ids = found.padded(2, fill_id=-1)
    assert np.shares_memory(scores, found.scores)
    assert np.shares_memory(item_ids, found.item_ids)


def test_padded_cuts_nothing_off() -> None:
    with pytest.raises(ValueError, match=r"k: expected at least 2 \(the longest row\), got 1"):
        candidates([[2, 1], [3]]).padded(1, fill_id=-1)


@pytest.mark.parametrize("i", [2, -3])
def test_no_such_query(i: int) -> None:
    with pytest.raises(IndexError, match=f"query {i} of 2"):
        candidates([[1], [2]])[i]


def test_iterates_over_the_queries() -> None:
    assert [item_ids.tolist() for _, item_ids in candidates([[1], [], [2]])] == [[0], [], [20]]


# On a device.


def test_id_lists_stay_on_the_device(cupy: Any) -> None:
    values = cupy.asarray(np.arange(5))
    with counting_reads() as reads:
        lists = IdLists(cupy.asarray(np.array([0, 2, 2, 5], np.int32)), values)
    assert reads == [2]  # whether the offsets fit and fall
    assert share_memory(lists.values, values)
    assert type(lists.offsets) is type(lists.lengths) is ndarray
    assert lists.offsets.dtype == np.int64
    assert len(lists) == 3
    assert lists.lengths.tolist() == [2, 0, 3]
    assert [lists.row(i).tolist() for i in range(3)] == [[0, 1], [], [2, 3, 4]]
    assert len(IdLists(cupy.asarray([0]), cupy.asarray(np.empty(0)))) == 0


def test_id_lists_from_rows_on_the_device(cupy: Any) -> None:
    lists = IdLists.from_rows([cupy.asarray([3, 4]), None, cupy.asarray(np.array([5], np.uint8))])
    assert type(lists.values) is ndarray
    assert lists.values.tolist() == [3, 4, 5]
    assert lists.offsets.tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize(
    ("offsets", "values", "error", "message"),
    [
        ([], [1, 2, 3], ValueError, "offsets: .*run from 0 to 3"),
        ([1, 3], [1, 2, 3], ValueError, "offsets: .*run from 0 to 3"),
        ([0, 4], [1, 2, 3], ValueError, "offsets: .*run from 0 to 3"),
        ([0, 2, 1, 3], [1, 2, 3], ValueError, "offsets: .*never to fall"),
        ([0, 2], [1.5, 2], TypeError, "values: expected integers, got float64"),
        ([0, 2], [[1, 2]], ValueError, "values: expected one dimension"),
        ([0, 1], np.array([2**63], np.uint64), ValueError, "values: .*fit in int64, got 922"),
    ],
)
def test_bad_id_lists_on_the_device(
    cupy: Any, offsets: Any, values: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        IdLists(cupy.asarray(np.array(offsets, np.int64)), cupy.asarray(np.array(values)))


def test_offsets_and_values_are_of_one_library(cupy: Any) -> None:
    with pytest.raises(TypeError, match=r"values: .*of numpy, as offsets is; got cupy"):
        IdLists(np.array([0, 1]), cupy.asarray([1]))
    with pytest.raises(TypeError, match=r"values: .*of cupy, as offsets is; got numpy"):
        IdLists(cupy.asarray([0, 1]), np.array([1]))


@given(SCORES)
def test_candidates_on_the_device(scores: list[list[float]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        cupy = make_cupy()
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        host = candidates(scores)
        arrays = (host.counts, host.scores, host.item_ids)
        with counting_reads() as reads:
            found = Candidates(*map(cupy.asarray, arrays))
            offsets, numbers = found.offsets, found.query_numbers
        assert reads == []
        for got, expected in ((offsets, host.offsets), (numbers, host.query_numbers)):
            np.testing.assert_array_equal(got.get(), expected, strict=True)
        k = max((len(row) for row in scores), default=0)
        with counting_reads() as reads:
            padded = found.padded(k, fill_id=-7)
        assert max(reads, default=0) <= 1
        for got, expected in zip(padded, host.padded(k, fill_id=-7), strict=True):
            np.testing.assert_array_equal(got.get(), expected)
        for got, expected in zip(found, host, strict=True):
            assert [array.tolist() for array in got] == [array.tolist() for array in expected]
        copied = found.to_host()
        for name in ("counts", "scores", "item_ids"):
            np.testing.assert_array_equal(getattr(copied, name), getattr(host, name), strict=True)


def test_candidates_from_rows_on_the_device(cupy: Any) -> None:
    host = candidates([[2, 1], [], [3]])
    rows = [(cupy.asarray(scores), cupy.asarray(item_ids)) for scores, item_ids in host]
    with counting_reads() as reads:
        found = Candidates.from_rows(rows)
    assert reads == []
    assert type(found.counts) is type(found.scores) is type(found.item_ids) is ndarray
    assert found.to_host().item_ids.tolist() == host.item_ids.tolist()


def test_candidates_on_the_device_are_judged_on_the_host(cupy: Any) -> None:
    host = candidates([[2, 1], [], [3]])
    found = Candidates(*map(cupy.asarray, (host.counts, host.scores, host.item_ids)))
    relevant = [[1], [7], [20]]
    assert evaluate.recall_at_k(found, relevant, 2) == evaluate.recall_at_k(host, relevant, 2)
