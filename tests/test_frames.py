"""Frames in and out, in every way that pandas keeps a list column."""

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from merlin_poeem import Index, open_searcher, search_frame
from merlin_poeem.search import frames
from tests.index_factories import random_id_lists, random_index, random_queries

N = 7
HAS_ARROW_DTYPE = hasattr(pd, "ArrowDtype")


@pytest.fixture(scope="module")
def index() -> Index:
    return random_index()


@pytest.fixture(scope="module")
def searcher(index: Index) -> Any:
    return open_searcher(index, "faiss")


@pytest.fixture(scope="module")
def queries(index: Index) -> np.ndarray:
    return random_queries(index, N)


def frame_of(queries: np.ndarray, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {"user": np.arange(len(queries)) + 100, "embedding": list(queries), **columns}
    )


def arrow_lists(values: list[Any], of: Any) -> pd.Series:
    if not HAS_ARROW_DTYPE:
        pytest.skip("this pandas has no ArrowDtype")
    kind = pa.list_(of)
    return pd.Series(pa.array(values, kind), dtype=pd.ArrowDtype(kind))


def test_long_form(searcher: Any, queries: np.ndarray) -> None:
    expected = searcher.search(queries, k=5)
    got = search_frame(searcher, frame_of(queries), k=5, query_id="user")
    assert type(got) is pd.DataFrame
    assert list(got.columns) == ["user", "rank", "item_id", "score"]
    assert got["user"].tolist() == np.repeat(np.arange(N) + 100, 5).tolist()
    assert got["rank"].tolist() == [1, 2, 3, 4, 5] * N
    np.testing.assert_array_equal(got["item_id"], expected.item_ids)
    np.testing.assert_array_equal(got["score"], expected.scores)
    assert got["score"].dtype == np.float32
    assert got.index.tolist() == list(range(5 * N))


def test_list_form(searcher: Any, queries: np.ndarray) -> None:
    expected = searcher.search(queries, k=5)
    got = search_frame(searcher, frame_of(queries), k=5, query_id="user", form="list")
    assert list(got.columns) == ["user", "item_id", "score", "count"]
    assert len(got) == N
    for i in range(N):
        np.testing.assert_array_equal(got["score"][i], expected[i][0])
        np.testing.assert_array_equal(got["item_id"][i], expected[i][1])
    assert got["count"].tolist() == [5] * N


def test_rows_of_unequal_length(searcher: Any, index: Index, queries: np.ndarray) -> None:
    allow = [index.item_ids[:i].tolist() for i in range(N)]
    frame = frame_of(queries, allowed=allow)
    long = search_frame(searcher, frame, k=5, n_probes=8, allow="allowed", query_id="user")
    lists = search_frame(
        searcher, frame, k=5, n_probes=8, allow="allowed", query_id="user", form="list"
    )
    assert lists["count"].tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert [len(row) for row in lists["item_id"]] == lists["count"].tolist()
    assert long["user"].tolist() == np.repeat(lists["user"], lists["count"]).tolist()
    assert long["rank"].tolist() == [r for n in lists["count"] for r in range(1, n + 1)]


def test_the_frame_s_index_names_the_queries(searcher: Any, queries: np.ndarray) -> None:
    frame = frame_of(queries)
    frame.index = pd.Index([f"u{i}" for i in range(N)], name="who")
    got = search_frame(searcher, frame, k=2)
    assert got["who"].tolist() == [f"u{i}" for i in range(N) for _ in range(2)]
    assert search_frame(searcher, frame, k=2, form="list")["who"].tolist() == list(frame.index)
    frame.index = pd.RangeIndex(10, 10 + N)
    got = search_frame(searcher, frame, k=1)
    assert got["query_id"].tolist() == list(range(10, 10 + N))


def test_shuffled_labels_do_not_realign(searcher: Any, queries: np.ndarray) -> None:
    frame = frame_of(queries).iloc[::-1]
    got = search_frame(searcher, frame, k=1, query_id="user", form="list")
    assert got["user"].tolist() == frame["user"].tolist()
    expected = searcher.search(queries[::-1], k=1).item_ids
    assert [row[0] for row in got["item_id"]] == expected.tolist()


def test_every_kind_of_vector_column(searcher: Any, queries: np.ndarray) -> None:
    expected = searcher.search(queries, k=5).item_ids
    wide = pd.DataFrame(queries, columns=[f"e{i}" for i in range(queries.shape[1])])
    got = [
        search_frame(searcher, frame_of(queries), k=5),
        search_frame(searcher, pd.DataFrame({"embedding": queries.tolist()}), k=5),
        search_frame(searcher, wide, k=5, vectors=list(wide.columns)),
    ]
    if HAS_ARROW_DTYPE:
        arrow = pd.DataFrame({"embedding": arrow_lists(list(queries), pa.float32())})
        fixed = pa.FixedSizeListArray.from_arrays(pa.array(queries.ravel()), queries.shape[1])
        fixed = pd.DataFrame({"embedding": pd.Series(fixed, dtype=pd.ArrowDtype(fixed.type))})
        got += [search_frame(searcher, frame, k=5) for frame in (arrow, fixed, arrow[0:N])]
    for frame in got:
        np.testing.assert_array_equal(frame["item_id"], expected)


def test_part_of_an_arrow_frame(searcher: Any, queries: np.ndarray) -> None:
    frame = pd.DataFrame({"embedding": arrow_lists(list(queries), pa.float32())})
    got = search_frame(searcher, frame[2:5], k=5)
    np.testing.assert_array_equal(got["item_id"], searcher.search(queries[2:5], k=5).item_ids)
    assert got["query_id"].tolist() == np.repeat([2, 3, 4], 5).tolist()


@pytest.mark.parametrize("kind", ["arrays", "lists", "mixed", "arrow"])
def test_every_kind_of_id_column(
    searcher: Any, index: Index, queries: np.ndarray, kind: str
) -> None:
    lists = random_id_lists(index, N, 150)
    seen: Any = {
        "arrays": lists,
        "lists": [ids.tolist() for ids in lists],
        "mixed": [None, float("nan"), *(ids.tolist() for ids in lists[2:4]), *lists[4:]],
        "arrow": None,
    }[kind]
    if kind == "mixed":
        lists = [np.empty(0, np.int64)] * 2 + lists[2:]
    if kind == "arrow":
        seen = arrow_lists([None, *lists[1:]], pa.int64())
    got = search_frame(searcher, frame_of(queries, seen=pd.Series(seen)), k=40, exclude="seen")
    expected = searcher.search(queries, k=40, exclude=lists)
    np.testing.assert_array_equal(got["item_id"], expected.item_ids)


@pytest.mark.parametrize("empty", [[[]] * N, [None] * N])
def test_columns_of_empty_lists(searcher: Any, queries: np.ndarray, empty: list[Any]) -> None:
    frame = frame_of(queries, seen=pd.Series(empty, dtype=object))
    got = search_frame(searcher, frame, k=5, exclude="seen")
    np.testing.assert_array_equal(got["item_id"], searcher.search(queries, k=5).item_ids)
    assert len(search_frame(searcher, frame, k=5, allow="seen")) == 0


def test_no_rows(searcher: Any, queries: np.ndarray) -> None:
    wide = pd.DataFrame(queries, columns=[f"e{i}" for i in range(queries.shape[1])])[:0]
    got = search_frame(searcher, wide, k=5, vectors=list(wide.columns))
    assert list(got.columns) == ["query_id", "rank", "item_id", "score"]
    assert len(got) == 0
    lists = search_frame(searcher, wide, k=5, vectors=list(wide.columns), form="list")
    assert len(lists) == 0


def doubled(queries: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"embedding": list(queries.astype(np.float64))})


def with_row(queries: np.ndarray, row: int, value: Any) -> pd.DataFrame:
    rows: list[Any] = list(queries)
    rows[row] = value
    return pd.DataFrame({"embedding": pd.Series(rows, dtype=object)})


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (doubled, {}, TypeError, "'embedding': expected float32, got float64"),
        (lambda q: with_row(q, 3, None), {}, ValueError, "'embedding': .*got a null in row 3"),
        (lambda q: with_row(q, 0, None), {}, ValueError, "'embedding': .*got a null in row 0"),
        (lambda q: with_row(q, 4, q[4][:9]), {}, ValueError, "expected 16 .*got 9 values in row 4"),
        (
            lambda q: with_row(q, 2, np.full(16, np.nan, "f4")),
            {},
            ValueError,
            "'embedding': .*first in row 2",
        ),
        (lambda q: with_row(q, 2, "abc"), {}, TypeError, "'embedding': expected lists of one kind"),
        (lambda q: pd.DataFrame({"embedding": [1.0]}), {}, TypeError, "expected lists, got double"),
        (frame_of, {"vectors": "vector"}, ValueError, "vectors: .*got 'vector'; it has .'user'"),
        (frame_of, {"vectors": []}, ValueError, "at least one column"),
        (frame_of, {"vectors": ["user"]}, TypeError, "'user': expected float32, got int64"),
        (frame_of, {"query_id": "who"}, ValueError, "query_id: .*got 'who'"),
        (frame_of, {"exclude": "seen"}, ValueError, "exclude: .*got 'seen'"),
        (frame_of, {"allow": "user"}, TypeError, "'user': expected lists, got int64"),
        (frame_of, {"form": "wide"}, ValueError, "form: expected long or list, got 'wide'"),
        (frame_of, {"k": 0}, ValueError, "k: expected at least 1"),
        (lambda q: {"embedding": q}, {}, TypeError, "pandas or cuDF DataFrame, got dict"),
        (lambda q: pd.Series(list(q)), {}, TypeError, "pandas or cuDF DataFrame, got Series"),
        (
            lambda q: frame_of(q, seen=[[1.5]] * N),
            {"exclude": "seen"},
            TypeError,
            "'seen': expected integers",
        ),
        (
            lambda q: frame_of(q, seen=[[1, None]] * N),
            {"exclude": "seen"},
            ValueError,
            "'seen': expected no nulls inside lists",
        ),
        (
            lambda q: frame_of(q, item_id=np.arange(N)),
            {"query_id": "item_id"},
            ValueError,
            "rename it, such as to 'query_item_id'",
        ),
        (
            lambda q: frame_of(q).set_index([np.arange(N), np.arange(N)]),
            {},
            ValueError,
            "the frame's index has levels",
        ),
    ],
)
def test_bad_input(
    searcher: Any,
    queries: np.ndarray,
    make: Any,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        search_frame(searcher, make(queries), **{"k": 5, **arguments})


class FakeCudfColumn:
    """The part of cuDF's list column that is used, over pandas, as cuDF needs a GPU."""

    def __init__(self, rows: list[Any]) -> None:
        self.dtype, self.list = "list", self
        self._rows = rows
        self.leaves = pd.Series(np.concatenate([row for row in rows if row is not None]))

    def len(self) -> pd.Series:
        return pd.Series([None if row is None else len(row) for row in self._rows], dtype="Int32")


FakeCudfColumn.__module__ = "cudf.core.series"


def test_cudf_list_columns_are_read_without_python_objects(queries: np.ndarray) -> None:
    np.testing.assert_array_equal(
        frames._vectors_of_lists("embedding", FakeCudfColumn(list(queries))), queries
    )
    lengths, values = frames._read_lists(
        "seen", FakeCudfColumn([np.array([1, 2]), None, np.array([3])])
    )
    assert lengths.tolist() == [2, -1, 1]
    assert values.tolist() == [1, 2, 3]


def test_importing_imports_no_frame_library() -> None:
    code = (
        "import sys, merlin_poeem; heavy = ('pandas', 'pyarrow', 'faiss', 'tensorflow'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
