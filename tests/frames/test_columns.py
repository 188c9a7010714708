"""Columns of vectors and ids: what is read of them, exactly, and what is refused, by its row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from merlin_poeem.frames import json_vectors
from merlin_poeem.frames.columns import (
    read_arrow,
    read_id_lists,
    read_ids,
    read_known_ids,
    read_numbers,
    read_vectors,
)
from merlin_poeem.frames.json_vectors import CHUNK_ROWS


def to_json(vectors: np.ndarray) -> list[str]:
    return [json.dumps(row) for row in vectors.tolist()]


class TestReadVectors:
    @given(
        st_numpy.arrays(
            np.float32,
            st.tuples(st.integers(1, 9), st.integers(1, 5)),
            elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
        )
    )
    def test_json_round_trip_is_exact(self, vectors: np.ndarray) -> None:
        read = read_vectors(pd.DataFrame({"v": to_json(vectors)}), "v")
        np.testing.assert_array_equal(read.view(np.int32), vectors.view(np.int32))

    def test_several_chunks(self) -> None:
        vectors = np.arange(2 * (CHUNK_ROWS + 5), dtype=np.float32).reshape(-1, 2)
        np.testing.assert_array_equal(
            read_vectors(pd.DataFrame({"v": to_json(vectors)}), "v"), vectors
        )

    def test_chunks_are_bounded_in_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chunks: list[int] = []

        def note(texts: list[str]) -> Any:
            chunks.append(sum(map(len, texts)))
            return parse(texts)

        parse = json_vectors._parse_chunk
        monkeypatch.setattr(json_vectors, "_parse_chunk", note)
        monkeypatch.setattr(json_vectors, "CHUNK_BYTES", 200)
        vectors = np.arange(300, dtype=np.float32).reshape(-1, 3)
        np.testing.assert_array_equal(
            read_vectors(pd.DataFrame({"v": to_json(vectors)}), "v"), vectors
        )
        assert max(chunks) <= 250  # the mean row decides, and the last ones are longer

    @pytest.mark.parametrize(
        "column",
        [
            ["[1, 2.5]", " [3,\n4e0]\t"],
            [[1, 2.5], [3, 4]],
            [np.array([1, 2.5]), np.array([3, 4.0])],
            [np.array([1, 2.5], np.float32), np.array([3, 4], np.float32)],
            pd.array(["[1,2.5]", "[3,4]"], dtype="string"),
            pd.Series(["[1,2.5]", "[3,4]"], index=[5, 5]),
        ],
        ids=["json", "lists", "float64", "float32", "string dtype", "labels"],
    )
    def test_kinds_of_column(self, column: Any) -> None:
        read = read_vectors(pd.DataFrame({"v": column}), "v")
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, [[1, 2.5], [3, 4]])

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (["[1]", "[2"], r"column 'v': expected a JSON array of numbers, got '\[2' in row 1"),
            (["[1]", "2"], "got '2' in row 1"),
            (["[1]", '["2"]'], "array of numbers, got .* in row 1"),
            (["[1]", "[true]"], "array of numbers, got .* in row 1"),
            (["[1]", "null"], "got 'null' in row 1"),
            (["[1]", ""], "got '' in row 1"),
            (["[1]", "[1e999]"], "in row 1"),
            (["[1]", '[2]}\n{"v":[3]'], "array of numbers, got .* in row 1"),
            (["[1]", '[2],"w":[3]'], "array of numbers, got .* in row 1"),
            (["[1, 2]", "[3]"], "expected 2 values, as in row 0; got 1 in row 1"),
            (["[]", "[1]"], "expected at least one value; got 0 in row 0"),
            (["[1]", "[NaN]"], "expected finite values, got NaN or infinity, first in row 1"),
            (["[1]", "[1e39]"], "expected finite values, got NaN or infinity, first in row 1"),
            (["[1, 2]", "[3, null]"], "expected finite values.* first in row 1"),
            (["[1]", None], "expected no nulls, got 1, first in row 1"),
            ([[1.0, 2.0], [3.0]], "expected 2 values, as in row 0; got 1 in row 1"),
            ([[1.0], None], "expected no nulls, got 1, first in row 1"),
            ([[1.0], [None]], "expected finite values.* first in row 1"),
            ([], "expected at least one row, got none"),
        ],
    )
    def test_refused_rows(self, column: list[Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_vectors(pd.DataFrame({"v": column}), "v")

    def test_a_late_row_is_named(self) -> None:
        column = ["[1]"] * (CHUNK_ROWS + 3)
        column[CHUNK_ROWS + 1] = "nonsense"
        with pytest.raises(ValueError, match=f"'nonsense' in row {CHUNK_ROWS + 1}"):
            read_vectors(pd.DataFrame({"v": column}), "v")

    @pytest.mark.parametrize("column", [[1.0, 2.0], [["a"], ["b"]], ["[1]", [2.0]]])
    def test_refused_columns(self, column: list[Any]) -> None:
        with pytest.raises(TypeError, match="column 'v': expected"):
            read_vectors(pd.DataFrame({"v": column}), "v")

    def test_refused_frames(self) -> None:
        with pytest.raises(TypeError, match="frame: expected a pandas or cuDF DataFrame, got dict"):
            read_vectors({"v": ["[1]"]}, "v")
        with pytest.raises(ValueError, match=r"column 'w': expected it in the frame, got \['v'\]"):
            read_vectors(pd.DataFrame({"v": ["[1]"]}), "w")


@pytest.mark.parametrize("read", [read_ids, read_known_ids, read_id_lists, read_vectors])
def test_a_name_that_two_columns_bear(read: Any) -> None:
    frame = pd.DataFrame([[1, 2]], columns=["v", "v"])
    with pytest.raises(ValueError, match="column 'v': expected it once in the frame, got 2"):
        read(frame, "v")


class TestReadIds:
    @given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9))
    def test_exact(self, ids: list[int]) -> None:
        read = read_ids(pd.DataFrame({"id": np.array(ids, np.int64)}), "id")
        assert read.dtype == np.int64
        assert read.tolist() == ids

    @pytest.mark.parametrize(
        ("ids", "error", "message"),
        [
            ([1, None], ValueError, "column 'id': expected no nulls, got 1, first in row 1"),
            ([1.0, 2.0], TypeError, "column 'id': expected integers, got float64"),
            (["1", "2"], TypeError, "column 'id': expected integers, got '1'"),
            (np.array([1, 2**63], np.uint64), ValueError, "fit in int64"),
            ([1, 2**70], ValueError, "column 'id': expected values that fit in int64"),
        ],
    )
    def test_refused(self, ids: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            read_ids(pd.DataFrame({"id": ids}), "id")


class TestReadKnownIds:
    @pytest.mark.parametrize(
        ("column", "known", "ids"),
        [
            ([3, 1], [True, True], [3, 1]),
            ([3.0, None], [True, False], [3]),
            (pd.array([None, 2**53 + 1], "Int64"), [False, True], [2**53 + 1]),
            (np.array([3, 7], np.uint32), [True, True], [3, 7]),
            ([None, None], [False, False], []),
            ([], [], []),
        ],
    )
    def test_reads(self, column: Any, known: list[bool], ids: list[int]) -> None:
        got_known, got_ids = read_known_ids(pd.DataFrame({"id": column}), "id")
        assert (got_known.tolist(), got_ids.tolist()) == (known, ids)
        assert (got_known.dtype, got_ids.dtype) == (bool, np.int64)

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ([1.5, 2.0], "column 'id': expected integers, got float64 with 1.5"),
            ([2.0**53], "column 'id': expected integers, got float64 with 9007199254740992.0"),
            (["a"], "column 'id': expected integers, got 'a'"),
        ],
    )
    def test_refused(self, column: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            read_known_ids(pd.DataFrame({"id": column}), "id")


class TestReadIdLists:
    def test_a_null_is_an_empty_list(self) -> None:
        lists = read_id_lists(pd.DataFrame({"seen": [[2**60, 1], None, [], [3]]}), "seen")
        assert lists.offsets.tolist() == [0, 2, 2, 2, 3]
        assert lists.values.tolist() == [2**60, 1, 3]

    @pytest.mark.parametrize(
        ("column", "error", "message"),
        [
            ([[1], [2, 3], None, [None, 4]], ValueError, "no nulls inside lists, got 1.* in row 3"),
            ([[1.5]], TypeError, "column 'seen': expected integers, got float64"),
            ([[True]], TypeError, "column 'seen': expected lists of numbers, got list<item: bool>"),
            (["[1]"], TypeError, "column 'seen': expected lists of numbers, got (large_)?string"),
        ],
    )
    def test_refused(self, column: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            read_id_lists(pd.DataFrame({"seen": column}), "seen")


def test_numbers_keep_their_dtype_and_have_no_nulls() -> None:
    frame = pd.DataFrame({"age": np.array([3, 4], np.int8), "kind": pd.Categorical([7, 9])})
    assert read_numbers(frame, "age").dtype == np.int8
    assert read_numbers(frame, "kind").tolist() == [7, 9]
    with pytest.raises(ValueError, match="column 'x': expected no nulls, got 1, first in row 1"):
        read_numbers(pd.DataFrame({"x": [1.0, np.nan]}), "x")


def test_pieces_of_text_may_be_longer_together_than_apart() -> None:
    # Arrow's string type holds 2 GiB in one array: a column of more comes in pieces.
    pieces = pd.arrays.ArrowExtensionArray(pa.chunked_array([["[1]"], ["[2]"]]))
    array = read_arrow(pd.DataFrame({"v": pieces}), "v")
    assert array.type == pa.large_string()
    assert array.to_pylist() == ["[1]", "[2]"]
