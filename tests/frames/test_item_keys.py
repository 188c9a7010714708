"""Frames of an index with item keys: what the same index finds by numbers, under its texts."""

from __future__ import annotations

import logging
import sys
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import (
    FlatIndex,
    Index,
    ItemSet,
    index_frame,
    like_items,
    like_rows,
    open_searcher,
    search_frame,
    tune,
    with_items,
)
from merlin_poeem.frames import unknown_ids
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests import device_frames
from tests.device_frames import peek
from tests.index_factories import random_id_lists, random_index, random_queries
from tests.search.gpu.openers import StandInDevice

N, K = 7, 5


def key_of(item_id: int) -> str:
    return f"sku {item_id:x}"


@pytest.fixture(scope="module")
def numbers() -> Index:
    return random_index("cosine")


@pytest.fixture(scope="module")
def keyed(numbers: Index) -> Index:
    ids = numbers.item_ids
    table = {"item_id": ids, "sku": list(map(key_of, ids)), "title": [f"t{i}" for i in ids]}
    return numbers.with_item_table(pd.DataFrame(table)).with_item_keys("sku")


def asked(index: Index, named: Any = key_of) -> pd.DataFrame:
    """Queries with lists of ids that the index holds, and of others."""
    lists = random_id_lists(index, N, 40)
    named_lists: list[Any] = [[named(int(each)) for each in row] for row in lists]
    named_lists[2] = None
    queries = list(random_queries(index, N))
    return pd.DataFrame({"user": list("ABCDEFG"), "embedding": queries, "ids": named_lists})


def in_keys(found: pd.DataFrame) -> pd.DataFrame:
    is_list = found["item_id"].map(lambda value: hasattr(value, "__len__")).any()
    named = (lambda ids: [key_of(each) for each in ids]) if is_list else key_of
    return found.assign(item_id=found["item_id"].map(named))


def as_lists(found: pd.DataFrame) -> list[Any]:
    return [[list(v) if hasattr(v, "tolist") else v for v in row] for row in found.to_numpy()]


@pytest.mark.parametrize("form", ["long", "list"])
@pytest.mark.parametrize("filtered", [{}, {"exclude": "ids"}, {"allow": "ids"}])
def test_the_same_items_under_their_keys(
    numbers: Index, keyed: Index, form: Any, filtered: dict[str, str]
) -> None:
    options = {"k": K, "query_id": "user", "form": form, "n_probes": 8, **filtered}
    truth = search_frame(open_searcher(numbers), asked(numbers, int), **options)
    found = search_frame(open_searcher(keyed), asked(numbers), **options)
    assert found.columns.tolist() == truth.columns.tolist()
    assert as_lists(found) == as_lists(in_keys(truth))
    assert len(found)


@pytest.mark.parametrize("name", ["exclude", "allow"])
@pytest.mark.parametrize(
    "made",
    [list, tuple, set, np.array, pd.Series, pd.Index, partial(pd.Series, dtype="string")],
)
def test_keys_for_all_rows(numbers: Index, keyed: Index, name: str, made: Any) -> None:
    ids = numbers.item_ids[:200].tolist()
    options: dict[str, Any] = {"k": K, "query_id": "user"}
    truth = search_frame(open_searcher(numbers), asked(numbers, int), **options, **{name: ids})
    given_keys = made([*map(key_of, ids), "no such key"])
    found = search_frame(open_searcher(keyed), asked(numbers), **options, **{name: given_keys})
    assert as_lists(found) == as_lists(in_keys(truth))


def test_no_allowed_keys_allow_nothing(keyed: Index) -> None:
    for nothing in ([], set(), ["no such key"], ItemSet([])):
        assert not len(search_frame(open_searcher(keyed), asked(keyed), k=K, allow=nothing))


@pytest.mark.parametrize(
    ("given_ids", "message"),
    [
        ([1, 2], r"exclude: expected texts, the item keys of the index, got 1 \(int\)"),
        (ItemSet([3]), r"exclude: expected texts, .* got 3 \(int\)"),
        ("numbers", r"column 'numbers': expected lists of texts, .* got list<.*int64>"),
        ("user", r"column 'user': expected lists of texts, .* got (large_)?string"),
        (["a", 1], r"exclude: expected texts, .* got 1 \(int\) in row 1"),
    ],
)
def test_ids_of_another_kind(keyed: Index, given_ids: Any, message: str) -> None:
    frame = asked(keyed).assign(numbers=[[1]] * N)
    with pytest.raises(TypeError, match=message):
        search_frame(open_searcher(keyed), frame, k=K, exclude=given_ids)


def test_names_of_columns_are_no_keys(keyed: Index) -> None:
    frame, searcher = asked(keyed).assign(bought=[[]] * N), open_searcher(keyed)
    message = r"exclude: expected the name of one column, .* got .*\['ids', 'bought'\]: join"
    with pytest.raises(ValueError, match=message):
        search_frame(searcher, frame, k=K, exclude=["ids", "bought"])
    key = key_of(int(keyed.item_ids[0]))
    for others in (["ids", "no such key"], [key]):
        assert len(search_frame(searcher, frame.assign(**{key: 0}), k=K, exclude=others))


def test_a_null_inside_a_list(keyed: Index) -> None:
    frame = asked(keyed).assign(ids=[["a"], ["b", None], *[None] * (N - 2)])
    with pytest.raises(ValueError, match=r"column 'ids': expected no nulls inside lists.* row 1"):
        search_frame(open_searcher(keyed), frame, k=K, exclude="ids")
    frame = frame.assign(ids=[None] * N)
    assert len(search_frame(open_searcher(keyed), frame, k=K, exclude="ids")) == N * K


@pytest.mark.parametrize("form", ["long", "list"])
def test_cudf_frames(numbers: Index, keyed: Index, cudf: Any, form: Any) -> None:
    frame = asked(numbers)
    options = {"k": K, "query_id": "user", "exclude": "ids", "form": form}
    truth = search_frame(open_searcher(keyed, "reference"), frame, **options)
    on_card = GpuSearcher(keyed, StandInDevice(sys.modules["cupy"]))
    columns = {
        "user": device_frames.Series(frame["user"].tolist(), dtype="str"),
        "embedding": device_frames.ListSeries.of(frame["embedding"].tolist(), np.float32),
        "ids": device_frames.ListSeries.of(frame["ids"].tolist(), object),
    }
    as_plain = list if form == "list" else str
    for searcher in (open_searcher(keyed, "reference"), on_card):
        found = search_frame(searcher, cudf.DataFrame(columns), **options)
        got = list(map(as_plain, peek(found["item_id"])))
        assert got == list(map(as_plain, truth["item_id"]))


def test_items_like_items(numbers: Index, keyed: Index) -> None:
    ids = numbers.item_ids[[5, 250]]
    truth = like_items(open_searcher(numbers), ids, k=3)
    found = like_items(open_searcher(keyed), list(map(key_of, ids)), k=3)
    assert found["like"].tolist() == [key_of(each) for each in truth["like"]]
    assert found["item_id"].tolist() == [key_of(each) for each in truth["item_id"]]
    rows = pd.DataFrame({"sku": list(map(key_of, ids)), "embedding": list(numbers.decode(ids))})
    by_row = like_rows(open_searcher(keyed), rows, k=3, row_id="sku")
    assert by_row["item_id"].tolist() == found["item_id"].tolist()
    assert by_row["like"].tolist() == found["like"].tolist()
    with pytest.raises(ValueError, match=r"ids in the index, got 1 that are not, such as \['x'\]"):
        like_items(open_searcher(keyed), ["x"], k=3)


def test_titles_are_joined_by_key(keyed: Index) -> None:
    found = search_frame(open_searcher(keyed), asked(keyed), k=2, query_id="user")
    titled = with_items(found, keyed)
    assert titled.columns.tolist() == ["user", "rank", "item_id", "score", "title"]
    expected = [f"t{int(key.split()[1], 16)}" for key in found["item_id"]]
    assert titled["title"].tolist() == expected
    none = with_items(found.head(0), keyed)
    assert none.columns.tolist() == titled.columns.tolist()
    with pytest.raises(TypeError, match=r"found\.item_id: expected texts"):
        with_items(found.assign(item_id=3), keyed)


@pytest.mark.parametrize("store_vectors", [None, "float16"])
def test_index_frame_of_texts(store_vectors: Any) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    frame = pd.DataFrame({"sku": [f"s{i:03d}" for i in rng.permutation(300)], "size": range(300)})
    frame["embedding"] = list(vectors)
    index = index_frame(
        frame, item_id="sku", item_table=["size"], metric="cosine", store_vectors=store_vectors
    )
    index = index.with_n_probes(index.n_lists)
    found = search_frame(open_searcher(index), frame, k=1, query_id="sku")
    assert (found["item_id"] == found["sku"]).mean() > 0.95
    sizes = frame.set_index("sku")["size"]
    assert (with_items(found, index)["size"] == sizes[found["item_id"]].to_numpy()).all()
    with pytest.raises(ValueError, match="column 'sku': expected each once, got 1 repeated"):
        index_frame(pd.concat([frame, frame.head(1)]), item_id="sku")
    with pytest.raises(ValueError, match="column 'sku': expected no nulls"):
        index_frame(frame.assign(sku=[None, *frame["sku"][1:]]), item_id="sku")


def test_flat_indexes_too() -> None:
    vectors = np.eye(4, dtype=np.float32)
    index = FlatIndex.from_vectors(list("dbca"), vectors)
    frame = pd.DataFrame({"embedding": list(vectors), "seen": [["d"], [], ["d", "b"], None]})
    found = search_frame(open_searcher(index), frame, k=1, exclude="seen")
    assert found["item_id"].tolist() == ["b", "b", "c", "a"]  # ties by their numbers


class TestUnknownIds:
    """Told once, where none of many ids in a column is held."""

    @pytest.fixture(autouse=True)
    def untold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unknown_ids, "_told", Event())

    def search(self, index: Index, lists: Any, name: str = "exclude") -> None:
        frame = asked(index).assign(ids=lists)
        search_frame(open_searcher(index), frame, k=K, **{name: "ids"})

    @pytest.mark.parametrize("name", ["exclude", "allow"])
    def test_numbers(self, numbers: Index, name: str, caplog: Any) -> None:
        for _ in range(2):
            self.search(numbers, [list(range(20)), *[None] * (N - 1)], name)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        message = record.getMessage()
        assert message.startswith(f"{name}: expected ids as the index has them, such as [")
        assert str(int(numbers.item_ids[0])) in message
        assert "column 'ids' has others, such as [0, 1, 2]: none of 20" in message

    def test_keys(self, keyed: Index, caplog: Any) -> None:
        self.search(keyed, [[f"x{i}"] * 2 for i in range(N)])
        assert not caplog.records
        self.search(keyed, [[f"x{i}" for i in range(30)], *[None] * (N - 1)])
        assert "has others, such as" not in caplog.text
        assert key_of(int(keyed.item_ids[0])) in caplog.text

    @given(n=st.integers(0, 25), held=st.booleans())
    def test_few_ids_or_one_that_is_held_say_nothing(
        self, numbers: Index, n: int, held: bool
    ) -> None:
        unknown_ids._told.clear()
        ids = [*range(n), *([int(numbers.item_ids[9])] if held else [])]
        self.search(numbers, [ids, *[None] * (N - 1)])
        assert unknown_ids._told.is_set() == (n >= 20 and not held)


@pytest.mark.parametrize("name", ["relevant", "exclude"])
def test_tune_takes_keys(numbers: Index, keyed: Index, name: str) -> None:
    lists = [ids if len(ids) else numbers.item_ids[:3] for ids in random_id_lists(numbers, N, 9)]
    named = [[key_of(int(each)) for each in ids] for ids in lists]
    queries, exact = random_queries(numbers, N), numbers.decode(numbers.item_ids)
    flat = FlatIndex.from_vectors(numbers.item_ids, exact, metric="cosine")
    by_key = FlatIndex.from_vectors(
        [key_of(int(each)) for each in numbers.item_ids], exact, metric="cosine"
    )
    truth = tune(numbers, queries, 3, exact=flat, **{name: lists})
    plain = tune(numbers, queries, 3, exact=flat)
    for given_lists in (named, pd.Series(named)):
        got = tune(keyed, queries, 3, exact=by_key, **{name: given_lists})
        assert got.table().equals(truth.table())
    assert not plain.table().equals(truth.table())


def test_tune_compares_by_key(numbers: Index, keyed: Index) -> None:
    """Exact vectors in another order, of other items too."""
    ids, queries = numbers.item_ids, random_queries(numbers, N)
    decoded = numbers.decode(ids)
    order = np.random.default_rng(0).permutation(len(ids))
    named = [key_of(int(each)) for each in ids[order]]
    flat = FlatIndex.from_vectors(ids, decoded, metric="cosine")
    truth = tune(numbers, queries, 3, exact=flat)
    by_key = FlatIndex.from_vectors(
        [*named, "other", "another"], np.vstack([decoded[order], -decoded[:2]]), metric="cosine"
    )
    with pytest.raises(ValueError, match="exact: expected the items of the index, got others"):
        tune(keyed, queries, 3, exact=by_key)
    by_key = by_key.remove(["other", "another"])
    assert tune(keyed, queries, 3, exact=by_key).table().equals(truth.table())
    for index, exact in ((keyed, flat), (numbers, by_key)):
        with pytest.raises(ValueError, match=r"exact: expected one with (no )?item keys"):
            tune(index, queries, 3, exact=exact)


def test_an_index_is_no_searcher(keyed: Index) -> None:
    with pytest.raises(TypeError, match=r"open_searcher\(index\) opens it, got merlin_poeem.Index"):
        search_frame(keyed, asked(keyed), k=K)  # type: ignore[arg-type]
