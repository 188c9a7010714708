"""Id lists going in, candidates coming out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.ragged import Candidates, IdLists

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


@given(ROWS.filter(len), st.data())
def test_take(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    taken = IdLists.from_rows(rows).take(np.array(chosen, np.int64))
    assert [taken.row(i).tolist() for i in range(len(taken))] == [rows[i] for i in chosen]


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
