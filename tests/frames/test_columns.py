"""Columns of vectors and ids: what is read of them, exactly, and what is refused, by its row."""

from __future__ import annotations

import datetime
import json
from collections import deque
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
    read_lists,
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
        levels = pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("v", "w")]))
        with pytest.raises(ValueError, match=r"'v': expected a frame with one level .*got 2: join"):
            read_vectors(levels, "v")
        joined = levels.set_axis(levels.columns.map("_".join), axis=1)
        assert read_vectors(joined, ["v_w"]).tolist() == [[1]]
        with pytest.raises(ValueError, match=r"column 'w': expected it in the frame, got \['v'\]"):
            read_vectors(pd.DataFrame({"v": ["[1]"]}), "w")


@pytest.mark.parametrize(
    ("module", "name", "remedy"),
    [
        ("polars.dataframe.frame", "polars.DataFrame", r"convert it with .to_pandas\(\)"),
        ("pyarrow.lib", "pyarrow.DataFrame", r"convert it with .to_pandas\(\)"),
        ("dask.dataframe.core", "dask.DataFrame", r".compute\(\), or .* search_ddf"),
        ("dask_expr._collection", "dask_expr.DataFrame", r".compute\(\), or .* search_ddf"),
        ("dask_cudf.core", "dask_cudf.DataFrame", r".compute\(\), or .* search_ddf"),
        ("modin.pandas.dataframe", "modin.DataFrame", "$"),
    ],
)
def test_frames_of_other_libraries(module: str, name: str, remedy: str) -> None:
    frame = type("DataFrame", (), {"columns": ["v"], "__module__": module})()
    with pytest.raises(TypeError, match=f"pandas or cuDF DataFrame, got {name}(: .*)?{remedy}"):
        read_vectors(frame, "v")


class TestFirstWrongRow:
    """What Arrow refuses is told by its row, in plain words."""

    @given(st.integers(0, 40), st.integers(0, 40))
    def test_of_lists_among_which_is_a_text(self, before: int, after: int) -> None:
        column = pd.Series([[1.0]] * (before + 1) + ["[1.0]"] + [[1.0]] * after)
        message = rf"column 'v': expected rows of one kind.* got str in row {before + 1} \("
        with pytest.raises(TypeError, match=message):
            read_vectors(pd.DataFrame({"v": column}), "v")

    @given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([2**63, 2**70, -(2**70)]))
    def test_of_integers_that_do_not_fit(self, before: int, after: int, huge: int) -> None:
        ids = [-1] * (before + 1) + [huge] + [1] * after
        message = f"column 'v': expected values that fit in int64, .*in row {before + 1}$"
        scalars = pd.DataFrame({"v": pd.Series(ids, dtype=object)})
        with pytest.raises(ValueError, match=message):
            read_ids(scalars, "v")
        with pytest.raises(ValueError, match=message):
            read_id_lists(pd.DataFrame({"v": [[each] for each in ids]}), "v")

    def test_of_unsigned_integers(self) -> None:
        ids = np.array([1, 2, 2**63], np.uint64)
        lists = pd.DataFrame({"v": [ids[:1], ids[:0], None, ids[1:]]})
        for read, frame, row in ((read_ids, {"v": ids}, 2), (read_id_lists, lists, 3)):
            with pytest.raises(ValueError, match=f"got 9223372036854775808, first in row {row}"):
                read(pd.DataFrame(frame), "v")

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (pd.Series([1.0]), r"got pandas.Series in row 1 \(.*\): make lists of such rows with"),
            (range(3), r"got range in row 1 \(.*\): make lists of such rows with .map\(list"),
            (deque([1.0]), "got collections.deque in row 1 .*: make lists of such rows with"),
            (np.ones((2, 2)), r"got numpy.ndarray in row 1 \("),
            (["a"], r"got list in row 1 \("),
            (object(), r"got object in row 1 \("),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_of_what_is_no_list(self, row: Any, message: str) -> None:
        column = pd.Series([[1.0], row], dtype=object)
        with pytest.raises(TypeError, match=f"column 'v': expected rows of one kind.*{message}"):
            read_lists(pd.DataFrame({"v": column}), "v")

    @pytest.mark.parametrize("row", [pd.Series([1.0, 2.0]), range(2), deque([1, 2])], ids=repr)
    def test_and_what_it_says_helps(self, row: Any) -> None:
        column = pd.Series([row, None], dtype=object)
        with pytest.raises(TypeError, match=r".map\(list, na_action='ignore'\)"):
            read_lists(pd.DataFrame({"v": column}), "v")
        lists = column.map(list, na_action="ignore")
        assert read_lists(pd.DataFrame({"v": lists}), "v")[0].tolist() == [2, -1]


class TestWaysOut:
    """What an error says to do does it."""

    def test_lists_of_whole_floats(self) -> None:
        frame = pd.DataFrame({"seen": [[1.0, 2.0], None]})
        with pytest.raises(TypeError, match=r"cast them, .*map\(int, ids\)\), na_action='ignore'"):
            read_id_lists(frame, "seen")
        lists = frame["seen"].map(lambda ids: list(map(int, ids)), na_action="ignore")
        assert read_id_lists(pd.DataFrame({"seen": lists}), "seen").values.tolist() == [1, 2]

    def test_lists_with_a_fraction(self) -> None:
        with pytest.raises(TypeError, match=r"got float64: such as 2.5 in row 2$"):
            read_id_lists(pd.DataFrame({"seen": [[1.0], None, [2.0, 2.5]]}), "seen")

    def test_lists_of_lists(self) -> None:
        frame = pd.DataFrame({"v": [[[1, 2], [3]], None]})
        with pytest.raises(TypeError, match=r".map\(numpy.ravel, na_action='ignore'\)"):
            read_id_lists(frame, "v")
        flat = pd.DataFrame({"v": [[[1, 2], [3, 4]], None]})["v"].map(np.ravel, na_action="ignore")
        assert read_id_lists(pd.DataFrame({"v": flat}), "v").values.tolist() == [1, 2, 3, 4]

    def test_texts_of_lists(self) -> None:
        frame = pd.DataFrame({"v": ["[1, 2]", None]})
        with pytest.raises(TypeError, match=r".map\(json.loads, na_action='ignore'\)"):
            read_id_lists(frame, "v")
        lists = frame["v"].map(json.loads, na_action="ignore")
        assert read_id_lists(pd.DataFrame({"v": lists}), "v").values.tolist() == [1, 2]

    def test_ids_alone(self) -> None:
        with pytest.raises(TypeError, match=r"got int64: make lists of one with frame\['v'\].map"):
            read_id_lists(pd.DataFrame({"v": [1, 2]}), "v")

    def test_ids_of_another_kind(self) -> None:
        dates = pd.Series(pd.to_datetime(["2020-01-02", "2020-01-01"]))
        for column in (dates, pd.Series(["b", "a"]), pd.Series([datetime.date(2020, 1, 1)])):
            frame = pd.DataFrame({"id": column})
            with pytest.raises(TypeError, match="the integer that the index has for it"):
                read_ids(frame, "id")

    def test_lists_of_ids(self) -> None:
        frame = pd.DataFrame({"id": [[1, 2]]})
        with pytest.raises(TypeError, match=r"make a row of each, with frame.explode\('id'\)"):
            read_ids(frame, "id")
        assert read_ids(frame.explode("id"), "id").tolist() == [1, 2]


def test_what_looks_like_numbers_is_none() -> None:
    intervals = pd.Series(pd.interval_range(0, 3))
    for column in (pd.Series(pd.period_range("2020", periods=3)), intervals):
        frame = pd.DataFrame({"v": column})
        for read in (read_ids, read_known_ids, read_numbers):
            with pytest.raises(TypeError, match="column 'v': expected numbers, got extension"):
                read(frame, "v")
    with pytest.raises(TypeError, match=r"column 'v': expected numbers, got interval.*to_numeric"):
        read_vectors(pd.DataFrame({"v": intervals}), ["v"])
    with pytest.raises(TypeError, match=r"expected numbers, texts or flat.*, got complex128"):
        read_numbers(pd.DataFrame({"v": [1j]}), "v")


@pytest.mark.parametrize("dtype", ["Int64", "Float32", "int64[pyarrow]", "double[pyarrow]"])
def test_wide_columns_with_room_for_nulls(dtype: str) -> None:
    if "pyarrow" in dtype and not hasattr(pd, "ArrowDtype"):
        pytest.skip("this pandas has no ArrowDtype")
    frame = pd.DataFrame({"a": pd.array([1, 2], dtype), "b": [3.5, 4.5]})
    assert read_vectors(frame, ["a", "b"]).tolist() == [[1, 3.5], [2, 4.5]]
    frame["a"] = pd.array([1, None], dtype)
    with pytest.raises(ValueError, match=r"columns 'a' to 'b': expected finite .*first in row 1"):
        read_vectors(frame, ["a", "b"])


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
            ([1.0, 2.0], TypeError, r"got float64: cast it with frame\['id'\].astype\('int64'\)"),
            ([1.0, 2.5], TypeError, "got float64: such as 2.5 in row 1"),
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
        lengths, got_known, got_ids = read_known_ids(pd.DataFrame({"id": column}), "id")
        assert lengths is None
        assert (got_known.tolist(), got_ids.tolist()) == (known, ids)
        assert (got_known.dtype, got_ids.dtype) == (bool, np.int64)

    @pytest.mark.parametrize(
        ("column", "lengths", "known", "ids"),
        [
            ([[3, 1], None, []], [2, 0, 0], [True, True], [3, 1]),
            ([[None, 2**53 + 1], [2]], [2, 1], [False, True, True], [2**53 + 1, 2]),
            ([np.array([np.nan, 3.0]), np.array([1.0])], [2, 1], [False, True, True], [3, 1]),
            ([[None], None], [1, 0], [False], []),
        ],
    )
    def test_reads_lists(
        self, column: Any, lengths: list[int], known: list[bool], ids: list[int]
    ) -> None:
        got = read_known_ids(pd.DataFrame({"id": column}), "id")
        assert [part.tolist() for part in got] == [lengths, known, ids]

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ([[1.5], [2.0]], "column 'id': expected integers, got float64 with 1.5"),
            ([["a"]], r"column 'id': expected integers, got 'a' \(str\)"),
            ([[[1]]], "column 'id': expected integers, got array"),
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
