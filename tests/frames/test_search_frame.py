"""Frames in and out, in every way that pandas keeps a list column."""

import re
import subprocess
import sys
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merlin_poeem import (
    Candidates,
    FlatIndex,
    IdLists,
    Index,
    ItemSet,
    like_items,
    open_searcher,
    search_frame,
    with_items,
)
from merlin_poeem.arrays import array_module
from merlin_poeem.frames import list_writer, unvisited
from merlin_poeem.search import reference
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests import device_frames
from tests.device_arrays import counting_reads, hidden, share_memory
from tests.device_frames import peek
from tests.index_factories import random_id_lists, random_index, random_queries
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.openers import StandInDevice

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


def test_a_second_look(queries: np.ndarray) -> None:
    index = random_index(vectors="int8").with_refine(3)
    searcher, frame = open_searcher(index, "reference"), frame_of(queries)
    found = [search_frame(searcher, frame, k=5, refine=refine) for refine in (None, 0, 2)]
    for got, refine in zip(found, (3, 0, 2), strict=True):
        expected = searcher.search(queries, k=5, refine=refine)
        np.testing.assert_array_equal(got["item_id"], expected.item_ids)
        np.testing.assert_array_equal(got["score"], expected.scores)
    assert len({tuple(got["item_id"]) for got in found}) == 3
    for wrong in (-1, 2.0):
        with pytest.raises((TypeError, ValueError), match="refine: expected"):
            search_frame(searcher, frame, k=5, refine=wrong)


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


FLAT = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "keys": lambda ids: dict.fromkeys(ids).keys(),
    "array": np.array,
    "uint64": lambda ids: np.array(ids, np.uint64),
    "Series": pd.Series,
    "Int64": lambda ids: pd.Series(ids, dtype="Int64"),
    "Index": pd.Index,
}


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("name", ["exclude", "allow"])
def test_flat_collections_are_for_all_rows(
    searcher: Any, index: Index, queries: np.ndarray, name: str, kind: str
) -> None:
    ids = index.item_ids[::3].tolist()
    frame = frame_of(queries)
    got = search_frame(searcher, frame, k=40, **{name: FLAT[kind](ids)})
    expected = search_frame(searcher, frame, k=40, **{name: ItemSet(ids)})
    pd.testing.assert_frame_equal(got, expected)


@pytest.mark.parametrize("empty", [[], (), set(), range(0), np.array([]), pd.Series([], dtype=int)])
def test_empty_collections_exclude_or_allow_nothing(
    searcher: Any, queries: np.ndarray, empty: Any
) -> None:
    frame = frame_of(queries)
    got = search_frame(searcher, frame, k=5, exclude=empty)
    pd.testing.assert_frame_equal(got, search_frame(searcher, frame, k=5))
    assert len(search_frame(searcher, frame, k=5, allow=empty)) == 0


@pytest.mark.parametrize("name", ["exclude", "allow"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "expected a column's name, an ItemSet, or item ids for all rows; got int: lists that"),
        ([[1]] * N, "item ids for all rows; got list: lists that differ by row go into a column"),
        (IdLists.from_rows([[1]] * N), "item ids for all rows; got merlin_poeem.IdLists"),
        (pd.DataFrame({"seen": [1]}), "item ids for all rows; got pandas.DataFrame"),
        (pd.Series([[1]] * N), "item ids for all rows; got pandas.Series"),
        (np.ones((N, 2), int), "item ids for all rows; got numpy.ndarray"),
        (np.array(5), "item ids for all rows; got numpy.ndarray"),
        (["seen"], "the name of a column, or item ids for all rows, .* such as 'seen'"),
        (iter([1]), "item ids for all rows; got list_iterator"),
        ([1.5], r"expected integers, got 1.5 \(float\)"),
        ([1, None], "expected integers, got None"),
        (pd.Series([1, None]), "expected integers, got float64"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_filter(
    searcher: Any, queries: np.ndarray, name: str, given: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=f"{name}: .*{message}"):
        search_frame(searcher, frame_of(queries), k=5, **{name: given})


class TestUnvisited:
    """Few allowed items, in lists that are not visited: told once, where it is so."""

    @pytest.fixture(autouse=True)
    def not_told_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unvisited, "_told", Event())

    def told(self, caplog: Any, searcher: Any, frame: Any, **search: Any) -> list[str]:
        caplog.clear()
        search_frame(searcher, frame, **{"allow": "allowed", **search})
        return [record.getMessage() for record in caplog.records]

    @given(data=st.data())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_where_it_is_so(
        self, caplog: Any, searcher: Any, index: Index, queries: np.ndarray, data: st.DataObject
    ) -> None:
        ids = st.lists(st.sampled_from([*index.item_ids[:40].tolist(), -1, 3]), max_size=6)
        lists = st.lists(ids, min_size=N, max_size=N)
        allowed, seen = data.draw(lists), data.draw(lists | ids.map(ItemSet))
        frame = frame_of(queries, allowed=allowed)
        exclude: Any = seen
        if isinstance(seen, list):
            frame["seen"], exclude = seen, "seen"
        search = {"k": data.draw(st.integers(1, 5)), "exclude": exclude, "form": "list"}
        n_probes = data.draw(st.integers(1, index.n_lists))
        unvisited._told.clear()
        told = self.told(caplog, searcher, frame, n_probes=n_probes, **search)
        all_lists = search_frame(
            searcher, frame, allow="allowed", n_probes=index.n_lists, **search
        )["count"]
        found = search_frame(searcher, frame, allow="allowed", n_probes=n_probes, **search)["count"]
        n_short = int((found < all_lists).sum())
        assert [message.partition(" got")[0] for message in told] == (
            [f"allow: {n_short} of {N} queries"] if n_short else []
        )

    def test_once(self, caplog: Any, searcher: Any, index: Index, queries: np.ndarray) -> None:
        frame = frame_of(queries, allowed=[index.item_ids.tolist()] * N)
        message = f"n_probes = 1 of {index.n_lists}.*; a higher n_probes may find the others"
        (told,) = self.told(caplog, searcher, frame, k=len(index), n_probes=1)
        assert re.search(message, told)
        assert not self.told(caplog, searcher, frame, k=len(index), n_probes=1)

    def test_of_the_device_one_number_is_read(
        self, caplog: Any, cudf: Any, index: Index, queries: np.ndarray
    ) -> None:
        frame = device_frame(queries, allowed=id_column([index.item_ids.tolist()] * N))
        with counting_reads() as reads:
            (told,) = self.told(caplog, DeviceSearcher(index), frame, k=len(index), n_probes=1)
        assert max(reads) <= 2
        assert told.startswith(f"allow: {N} of {N} queries got fewer items than k")


def test_item_sets(searcher: Any, index: Index, queries: np.ndarray) -> None:
    lists, item_set = random_id_lists(index, N, 150), ItemSet(index.item_ids[::3])
    frame = frame_of(queries, seen=lists)
    got = search_frame(searcher, frame, k=40, exclude="seen", allow=item_set)
    expected = searcher.search(queries, k=40, exclude=lists, allow=item_set)
    np.testing.assert_array_equal(got["item_id"], expected.item_ids)
    got = search_frame(searcher, frame, k=40, exclude=item_set)
    expected = searcher.search(queries, k=40, exclude=item_set)
    np.testing.assert_array_equal(got["item_id"], expected.item_ids)


@pytest.mark.parametrize("empty", [[[]] * N, [None] * N])
def test_columns_of_empty_lists(searcher: Any, queries: np.ndarray, empty: list[Any]) -> None:
    frame = frame_of(queries, seen=pd.Series(empty, dtype=object))
    got = search_frame(searcher, frame, k=5, exclude="seen")
    np.testing.assert_array_equal(got["item_id"], searcher.search(queries, k=5).item_ids)
    assert len(search_frame(searcher, frame, k=5, allow="seen")) == 0


def empty_frame() -> pd.DataFrame:
    return pd.DataFrame({"embedding": pd.Series([], dtype=object)})


def test_no_rows(searcher: Any, queries: np.ndarray) -> None:
    wide = pd.DataFrame(queries, columns=[f"e{i}" for i in range(queries.shape[1])])[:0]
    of_lists = frame_of(queries, seen=[[1]] * N)[:0]
    for frame, arguments in (
        (wide, {"vectors": list(wide.columns)}),
        (of_lists, {"exclude": "seen"}),
        (empty_frame(), {}),
    ):
        long = search_frame(searcher, frame, k=5, **arguments)
        assert list(long.columns) == ["query_id", "rank", "item_id", "score"]
        assert len(long) == 0
        assert long[["rank", "item_id", "score"]].dtypes.tolist() == [
            np.int64,
            np.int64,
            np.float32,
        ]
        lists = search_frame(searcher, frame, k=5, form="list", **arguments)
        assert list(lists.columns) == ["query_id", "item_id", "score", "count"]
        assert len(lists) == 0
        assert lists[["item_id", "score", "count"]].dtypes.tolist() == [object, object, np.int64]


def test_wider_numbers_and_texts_become_float32(searcher: Any, queries: np.ndarray) -> None:
    expected = searcher.search(queries, k=5).item_ids
    doubles = queries.astype(np.float64)
    wide = pd.DataFrame(doubles, columns=[f"e{i}" for i in range(queries.shape[1])])
    wide["e0"] = wide["e0"].astype(np.float32)
    before = wide.copy()
    texts = [str(row) for row in doubles.tolist()]
    for frame, vectors in (
        (pd.DataFrame({"embedding": list(doubles)}), "embedding"),
        (pd.DataFrame({"embedding": texts}), "embedding"),
        (wide, list(wide.columns)),
    ):
        got = search_frame(searcher, frame, k=5, vectors=vectors)
        np.testing.assert_array_equal(got["item_id"], expected)
    pd.testing.assert_frame_equal(wide, before)


def with_row(queries: np.ndarray, row: int, value: Any) -> pd.DataFrame:
    rows: list[Any] = list(queries)
    rows[row] = value
    return pd.DataFrame({"embedding": pd.Series(rows, dtype=object)})


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (
            lambda q: with_row(q, 3, None),
            {},
            ValueError,
            "'embedding': expected no nulls, got 1, first in row 3",
        ),
        (
            lambda q: with_row(q, 0, None),
            {},
            ValueError,
            "'embedding': expected no nulls, got 1, first in row 0",
        ),
        (
            lambda q: with_row(q, 4, q[4][:9]),
            {},
            ValueError,
            "expected 16 values, the index.s dim; got 9 in row 4",
        ),
        (
            lambda q: with_row(q, 2, np.full(16, np.nan, "f4")),
            {},
            ValueError,
            "'embedding': .*first in row 2",
        ),
        (lambda q: with_row(q, 2, "abc"), {}, TypeError, "'embedding': expected rows of one kind"),
        (
            lambda q: pd.DataFrame({"embedding": [1.0]}),
            {},
            TypeError,
            "'embedding': expected lists of numbers, got double",
        ),
        (
            frame_of,
            {"vectors": "vector"},
            ValueError,
            "column 'vector': expected it in the frame, got .'user', ",
        ),
        (frame_of, {"vectors": []}, ValueError, "at least one column"),
        (
            frame_of,
            {"vectors": ["user"]},
            ValueError,
            r"'user': expected .*\(n, 16\), got \(7, 1\)",
        ),
        (
            lambda q: frame_of(q, a=list("abcdefg")),
            {"vectors": ["user", "a"]},
            TypeError,
            "'a': expected numbers, got (object|str)",
        ),
        (
            frame_of,
            {"query_id": "who"},
            ValueError,
            "column 'who': expected it in the frame, got .'user', ",
        ),
        (
            frame_of,
            {"exclude": "seen"},
            ValueError,
            "column 'seen': expected it in the frame, got .'user', ",
        ),
        (frame_of, {"allow": "user"}, TypeError, "'user': expected lists of numbers, got int64"),
        (frame_of, {"form": "wide"}, ValueError, "form: expected long or list, got 'wide'"),
        (frame_of, {"k": 0}, ValueError, "k: expected at least 1"),
        (lambda q: {"embedding": q}, {}, TypeError, "pandas or cuDF DataFrame, got dict"),
        (lambda q: pd.Series(list(q)), {}, TypeError, "cuDF DataFrame, got pandas.Series"),
        (
            frame_of,
            {"vectors": 0},
            TypeError,
            r"vectors: expected a column's name .* got 0 \(int\)",
        ),
        (frame_of, {"vectors": [["user"]]}, TypeError, "column: expected its name, got list"),
        (frame_of, {"query_id": ["user"]}, TypeError, "column: expected its name, got list"),
        (
            lambda q: pd.concat({"all": frame_of(q)}, axis=1),
            {},
            ValueError,
            "column 'embedding': expected a frame with one level of column names, got 2: join",
        ),
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
            "'seen': expected no nulls inside lists, got 7, first in row 0",
        ),
        (
            lambda q: frame_of(q, seen=[[2**70]] * N),
            {"exclude": "seen"},
            ValueError,
            "'seen': expected values that fit in int64",
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
            r"the frame's index has levels; got None: frame.reset_index\(\)",
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


# cuDF, by a stand-in, as it needs a GPU.


class DeviceSearcher:
    """The definition as a searcher on the device: CuPy in gives CuPy out, NumPy NumPy."""

    backend = "gpu"
    on_device = True

    def __init__(self, index: Index) -> None:
        self.index = index

    def search(self, queries: Any, *, exclude: Any, allow: Any, **search: Any) -> Candidates:
        xp = array_module(queries)
        found = reference.search(
            self.index,
            hidden(queries),
            exclude=hidden_filter(exclude, xp),
            allow=hidden_filter(allow, xp),
            **search,
        )
        return Candidates(*map(xp.asarray, (found.counts, found.scores, found.item_ids)))


def hidden_filter(given: Any, xp: Any) -> Any:
    """``exclude`` or ``allow``, once it is shown to be of the library of the queries."""
    if not isinstance(given, IdLists):
        return given
    assert array_module(given.offsets) is array_module(given.values) is xp
    return IdLists(hidden(given.offsets), hidden(given.values))


def device_frame(queries: np.ndarray, **columns: Any) -> Any:
    return device_frames.DataFrame(
        {
            "user": device_frames.Series((np.arange(len(queries)) + 100).tolist()),
            "embedding": device_frames.ListSeries.of(list(queries), np.float32),
            **columns,
        }
    )


def id_column(lists: Any) -> Any:
    return device_frames.ListSeries.of(lists, np.int64)


def assert_frames_match(got: Any, expected: pd.DataFrame) -> None:
    """A frame of the device holds what one of pandas does."""
    assert type(got) is device_frames.DataFrame
    assert list(got.columns) == list(expected.columns)
    for name in expected.columns:
        column = got[name]
        if expected[name].dtype == object:
            assert column.dtype.element_type == (np.float32 if name == "score" else np.int64)
            for ours, theirs in zip(peek(column), expected[name], strict=True):
                np.testing.assert_array_equal(ours, theirs, strict=True)
        else:
            assert column.dtype == expected[name].dtype
            assert peek(column) == expected[name].tolist()


@pytest.mark.parametrize("form", ["long", "list"])
@pytest.mark.parametrize("query_id", ["user", None])
def test_cudf_stays_on_the_device(
    cudf: Any, index: Index, queries: np.ndarray, form: Any, query_id: Any
) -> None:
    seen: list[Any] = [None, *random_id_lists(index, N, 60)[1:]]
    allowed = [index.item_ids[i::2] for i in range(N)]
    search = {"k": 5, "query_id": query_id, "form": form}
    for filters in ({}, {"exclude": "seen", "allow": "allowed"}, {"allow": ItemSet(allowed[0])}):
        frame = device_frame(queries, seen=id_column(seen), allowed=id_column(allowed))
        with counting_reads() as reads:
            got = search_frame(DeviceSearcher(index), frame, **search, **filters)
        # What is read are the outcomes of checks, one or two at a time.
        assert max(reads) <= 2
        assert_frames_match(
            got,
            search_frame(
                open_searcher(index, "reference"),
                frame_of(queries, seen=seen, allowed=allowed),
                **search,
                **filters,
            ),
        )


def test_cudf_shares_its_memory_with_the_searcher(
    cudf: Any, searcher: Any, index: Index, queries: np.ndarray
) -> None:
    given: dict[str, Any] = {}
    results: list[Candidates] = []

    class Spy(DeviceSearcher):
        def search(self, queries: Any, **search: Any) -> Candidates:
            given.update(search, queries=queries)
            results.append(super().search(queries, **search))
            return results[0]

    frame = device_frame(queries, seen=id_column([[1, 2]] * N))
    got = search_frame(Spy(index), frame, k=5, exclude="seen", form="list")
    assert share_memory(given["queries"], frame["embedding"].list.leaves.values)
    assert share_memory(given["exclude"].values, frame["seen"].list.leaves.values)
    assert share_memory(got["score"].list.leaves.values, results[0].scores)


def test_columns_of_cudf_as_vectors(cudf: Any, index: Index, queries: np.ndarray) -> None:
    names = [f"e{i}" for i in range(queries.shape[1])]
    columns = {
        name: device_frames.Series(cudf_array(queries[:, i])) for i, name in enumerate(names)
    }
    frame = device_frames.DataFrame(columns)
    with counting_reads() as reads:
        got = search_frame(DeviceSearcher(index), frame, k=5, vectors=names)
    assert max(reads) <= 2
    expected = reference.search(index, queries, k=5)
    assert peek(got["item_id"]) == expected.item_ids.tolist()
    host = search_frame(open_searcher(index), frame, k=5, vectors=names)
    assert peek(host["item_id"]) == expected.item_ids.tolist()


def cudf_array(values: np.ndarray) -> Any:
    return device_frames.cupy.asarray(np.ascontiguousarray(values))


@pytest.mark.parametrize("form", ["long", "list"])
def test_cudf_with_a_searcher_on_the_host(
    cudf: Any, searcher: Any, index: Index, queries: np.ndarray, form: Any
) -> None:
    seen: list[Any] = [None, *random_id_lists(index, N, 60)[1:]]
    search = {"k": 5, "query_id": "user", "exclude": "seen", "form": form}
    got = search_frame(searcher, device_frame(queries, seen=id_column(seen)), **search)
    assert_frames_match(got, search_frame(searcher, frame_of(queries, seen=seen), **search))


@pytest.mark.parametrize("form", ["long", "list"])
def test_pandas_with_a_searcher_on_the_device(
    searcher: Any, index: Index, queries: np.ndarray, form: Any
) -> None:
    frame = frame_of(queries, seen=random_id_lists(index, N, 60))
    search = {"k": 5, "query_id": "user", "exclude": "seen", "form": form}
    got = search_frame(DeviceSearcher(index), frame, **search)
    pd.testing.assert_frame_equal(got, search_frame(searcher, frame, **search))


@pytest.mark.parametrize("device", [True, False])
@pytest.mark.parametrize("lists", [[None] * N, [[]] * N])
def test_cudf_columns_of_empty_lists(
    cudf: Any, index: Index, queries: np.ndarray, device: bool, lists: list[Any]
) -> None:
    searcher = DeviceSearcher(index) if device else open_searcher(index)
    untyped = device_frames.Series(lists) if lists[0] is None else id_column(lists)
    for column in (id_column(lists), untyped, device_frames.ListSeries.of(lists, object)):
        frame = device_frame(queries, seen=column)
        got = search_frame(searcher, frame, k=5, exclude="seen")
        expected = reference.search(index, queries, k=5)
        assert peek(got["item_id"]) == expected.item_ids.tolist()
        assert len(search_frame(searcher, frame, k=5, allow="seen")) == 0


def test_cudf_lists_of_more_values_than_their_offsets_count(
    cudf: Any, index: Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_writer, "MAX_LIST_VALUES", 5 * N - 1)
    frame = device_frame(queries)
    with pytest.raises(ValueError, match=f"at most {5 * N - 1} values, .* got {5 * N}"):
        search_frame(open_searcher(index), frame, k=5, form="list")
    assert len(search_frame(open_searcher(index), frame, k=5)) == 5 * N


@pytest.mark.parametrize("device", [True, False])
def test_cudf_without_rows(cudf: Any, index: Index, queries: np.ndarray, device: bool) -> None:
    searcher = DeviceSearcher(index) if device else open_searcher(index)
    frame = device_frame(queries[:0], seen=id_column([]))
    for form in ("long", "list"):
        got = search_frame(searcher, frame, k=5, exclude="seen", form=form)
        assert_frames_match(got, search_frame(searcher, empty_frame(), k=5, form=form))


@pytest.mark.parametrize("device", [True, False])
@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (
            lambda q: {"embedding": floats([*q[:3], None, *q[4:]])},
            {},
            ValueError,
            "'embedding': expected no nulls, got 1, first in row 3",
        ),
        (
            lambda q: {"embedding": floats([None, *q[1:]])},
            {},
            ValueError,
            "'embedding': expected no nulls, got 1, first in row 0",
        ),
        (
            lambda q: {"embedding": floats([*q[:4], q[4][:9], *q[5:]])},
            {},
            ValueError,
            "got 9 in row 4",
        ),
        (
            lambda q: {"embedding": floats([*q[:2], [None] * 16, *q[3:]])},
            {},
            ValueError,
            "'embedding': expected finite values.*first in row 2",
        ),
        (
            lambda q: {"embedding": device_frames.ListSeries.of([["a"]] * N, object)},
            {},
            TypeError,
            "'embedding': expected lists of numbers, got (ListDtype|list)",
        ),
        (lambda q: {}, {"vectors": ["embedding"]}, TypeError, "'embedding': expected numbers"),
        (
            lambda q: {
                "a": device_frames.Series(cudf_array(q[:, 0])),
                "b": device_frames.Series(cudf_array(q[:, 1]), np.arange(N) != 4),
            },
            {"vectors": ["a", "b"]},
            ValueError,
            "columns 'a' to 'b': expected shape .*, got .7, 2.",
        ),
        (
            lambda q: with_null_in_column_of(q, 4),
            {"vectors": [f"e{i}" for i in range(16)]},
            ValueError,
            "columns 'e0' to 'e15': expected finite values, .*first in row 4",
        ),
        (
            lambda q: {},
            {"allow": "user"},
            TypeError,
            "'user': expected lists of numbers, got int64",
        ),
        (
            lambda q: {"seen": id_column([[1, None]] * N)},
            {"exclude": "seen"},
            ValueError,
            "'seen': expected no nulls inside lists, got 7, first in row 0",
        ),
        (
            lambda q: {"seen": floats([[1.5]] * N)},
            {"exclude": "seen"},
            TypeError,
            "'seen': expected integers, got float32",
        ),
    ],
)
def test_bad_cudf_frames(
    cudf: Any,
    index: Index,
    queries: np.ndarray,
    device: bool,
    make: Any,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    searcher = DeviceSearcher(index) if device else open_searcher(index)
    with pytest.raises(error, match=message):
        search_frame(searcher, device_frame(queries, **make(queries)), **{"k": 5, **arguments})


@pytest.mark.parametrize("device", [True, False])
def test_wider_numbers_of_cudf_become_float32(
    cudf: Any, index: Index, queries: np.ndarray, device: bool
) -> None:
    searcher = DeviceSearcher(index) if device else open_searcher(index)
    doubles = device_frames.ListSeries.of(list(queries.astype(np.float64)), np.float64)
    got = search_frame(searcher, device_frame(queries, embedding=doubles), k=5)
    assert peek(got["item_id"]) == reference.search(index, queries, k=5).item_ids.tolist()


def with_null_in_column_of(queries: np.ndarray, row: int) -> dict[str, Any]:
    valid = [np.arange(N) != (row if i == 1 else -1) for i in range(16)]
    return {f"e{i}": device_frames.Series(cudf_array(queries[:, i]), valid[i]) for i in range(16)}


def floats(rows: Any) -> Any:
    return device_frames.ListSeries.of(rows, np.float32)


# The GPU searcher itself, on an emulated device.

FILTERS = [{}, {"exclude": "seen"}, {"allow": "allowed"}, {"exclude": "seen", "allow": "set"}]


def filters_of(index: Index, columns: dict[str, str]) -> dict[str, Any]:
    some = ItemSet(index.item_ids[::2])
    return {name: some if column == "set" else column for name, column in columns.items()}


def id_columns(index: Index) -> dict[str, Any]:
    seen: list[Any] = [None, *random_id_lists(index, N, 60)[1:]]
    return {"seen": seen, "allowed": [index.item_ids[:i] for i in range(N)]}


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
@pytest.mark.parametrize("form", ["long", "list"])
@pytest.mark.parametrize("columns", FILTERS, ids=lambda columns: "-".join(columns))
def test_gpu_answers_pandas_as_faiss_does(
    searcher: Any, index: Index, queries: np.ndarray, form: Any, columns: dict[str, str]
) -> None:
    frame = frame_of(queries, **id_columns(index))
    search = {"k": 5, "query_id": "user", "form": form, **filters_of(index, columns)}
    got = search_frame(GpuSearcher(index, EmulatedDevice()), frame, **search)
    pd.testing.assert_frame_equal(got, search_frame(searcher, frame, **search), rtol=1e-5)


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
@pytest.mark.parametrize("form", ["long", "list"])
@pytest.mark.parametrize("columns", FILTERS, ids=lambda columns: "-".join(columns))
def test_gpu_answers_cudf_on_the_device(
    cudf: Any, index: Index, queries: np.ndarray, form: Any, columns: dict[str, str]
) -> None:
    lists = id_columns(index)
    frame = device_frame(queries, **{name: id_column(rows) for name, rows in lists.items()})
    search = {"k": 5, "query_id": "user", "form": form, **filters_of(index, columns)}
    gpu = GpuSearcher(index, StandInDevice(sys.modules["cupy"]))
    with counting_reads() as reads:
        got = search_frame(gpu, frame, **search)
    assert max(reads) <= 2
    assert_frames_match(got, search_frame(gpu, frame_of(queries, **lists), **search))


@pytest.mark.parametrize("backend", ["reference", "faiss"])
def test_a_flat_index_is_searched_like_another(queries: np.ndarray, backend: str) -> None:
    vectors = np.random.default_rng(3).standard_normal((50, queries.shape[1])).astype(np.float32)
    table = pd.DataFrame({"item_id": np.arange(50), "title": [f"title {i}" for i in range(50)]})
    flat = FlatIndex.from_vectors(np.arange(50), vectors, item_table=table)
    frame = frame_of(queries, seen=[[0, 1, 2]] * len(queries), held=[[3, 4, 99]] * len(queries))
    found = search_frame(
        open_searcher(flat, backend), frame, k=5, exclude="seen", allow="held", query_id="user"
    )
    assert found["item_id"].isin([3, 4]).all()
    assert len(found) == 2 * len(queries)
    assert with_items(found, flat)["title"].str.startswith("title ").all()
    near = like_items(open_searcher(flat, backend), [7], k=3)
    assert 7 not in near["item_id"].tolist()
    assert len(near) == 3


def test_importing_imports_no_frame_library() -> None:
    code = (
        "import sys, merlin_poeem; heavy = ('pandas', 'pyarrow', 'faiss', 'tensorflow'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
