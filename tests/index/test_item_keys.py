"""Item keys: texts for ids, in indexes of both kinds, through all that changes an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import (
    FlatIndex,
    IdLists,
    Index,
    ItemCodes,
    load_flat_index,
    load_index,
    save_index,
)
from merlin_poeem.index.item_keys import LARGEST_ID, ItemKeys, are_texts
from tests.index.test_index import DIM, make_params, make_quantization, make_vectors

KINDS = ("ivf", "flat")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


def make(kind: str, ids: Any, vectors: np.ndarray, table: Any = None) -> Index | FlatIndex:
    if kind == "flat":
        return FlatIndex.from_vectors(ids, vectors, item_table=table)
    options = {"store_vectors": "float16", "item_table": table}
    return Index.from_vectors(make_params(), make_quantization(), ids, vectors, **options)


def saved(index: Index | FlatIndex, path: Path) -> Any:
    save_index(index, path)
    return load_index(path) if isinstance(index, Index) else load_flat_index(path)


@given(st.dictionaries(texts, st.integers(0, LARGEST_ID), max_size=20), st.lists(texts))
def test_to_ids_and_back(ids: dict[str, int], others: list[str]) -> None:
    numbers = list(dict.fromkeys(ids.values()))
    known = dict(zip(ids, numbers, strict=False))
    keys = ItemKeys(np.array(list(known.values()), np.int64), list(known))
    asked = [*known, *others]
    assert keys.ids_of(asked).tolist() == [known.get(key, -1) for key in asked]
    assert keys.keys_of(list(known.values())).tolist() == list(known)
    assert len(keys) == len(known)


@pytest.mark.parametrize(
    ("ids", "keys", "error", "message"),
    [
        ([1, 2], ["a", "a"], ValueError, r"item_key: expected each once, got 1 repeated.*'a'"),
        ([1, 2], ["a", None], TypeError, r"item_key: expected texts.*got None .* in row 1"),
        ([1, 2], ["a", 3], TypeError, r"item_key: expected texts.*got 3 \(int\) in row 1"),
        ([-1, 2], ["a", "b"], ValueError, "item_ids: expected ids from 0 to .*, got -1 to 2"),
        ([1, 2**63 - 1], ["a", "b"], ValueError, "item_ids: expected ids from 0 to"),
    ],
)
def test_what_are_no_keys(ids: Any, keys: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ItemKeys(np.array(ids, np.int64), keys)


def test_unknown_ids_and_no_texts() -> None:
    keys = ItemKeys(np.array([4, 2]), ["d", "b"])
    with pytest.raises(ValueError, match=r"expected ids in the index, got 1 others, such as \[3\]"):
        keys.keys_of([2, 3])
    with pytest.raises(TypeError, match=r"seen: expected texts.*got 2 \(int\) in row 0"):
        keys.ids_of([2], "seen")
    with pytest.raises(ValueError, match="got 1 others"):
        ItemKeys(np.empty(0, np.int64), []).keys_of([0])


@pytest.mark.parametrize(
    ("given", "are"),
    [
        (["a"], True),
        ([np.str_("a")], True),
        (np.array(["a"]), True),
        (pd.Series(["a"]), True),
        (pd.Series(["a"], dtype="string"), True),
        (pd.Series(["a"], dtype="category"), True),
        ("a", False),
        ([], False),
        ([1], False),
        (np.array([1]), False),
        ([["a"]], False),
        (3, False),
        (np.array(5), False),
        (iter(["a"]), False),
        (pd.DataFrame({"a": ["b"]}), False),
        (IdLists.from_rows([[1]]), False),
    ],
)
def test_are_texts(given: Any, are: bool) -> None:
    assert are_texts(given) is are


@pytest.mark.parametrize("kind", KINDS)
class TestIndex:
    """Of either kind."""

    keys = ("delta", "alpha", "", "Ω", "charlie")

    @pytest.fixture
    def index(self, kind: str) -> Any:
        table = pd.DataFrame({"item_id": ["alpha", "delta"], "title": ["A", "D"], "n": [1, 4]})
        return make(kind, list(self.keys), make_vectors(5), table)

    def test_texts_are_numbered_in_their_order(self, index: Any, tmp_path: Path) -> None:
        for held in (index, saved(index, tmp_path / "index")):
            assert held.has_item_keys
            assert held.item_keys.ids_of(self.keys).tolist() == [0, 1, 2, 3, 4]
            table = held.item_table.set_index("item_key").loc[list(self.keys)]
            assert table["item_id"].tolist() == [0, 1, 2, 3, 4]
            assert table["title"].tolist()[:2] == ["D", "A"]
            assert table["title"].isna().tolist() == [False, False, True, True, True]
            assert table["n"].dropna().tolist() == [4, 1]
            assert str(table["n"].dtype) == "Int64"

    def test_methods_take_keys(self, index: Any) -> None:
        np.testing.assert_array_equal(
            index.vectors_of(["Ω", "alpha"]), index.without_item_keys().vectors_of([3, 1])
        )
        left = index.remove(["alpha", ""])
        assert sorted(left.item_keys.keys_of(left.item_ids)) == ["charlie", "delta", "Ω"]
        added = make_vectors(2, seed=9)
        more = left.extend(
            ["new", "alpha"],
            added,
            item_table=pd.DataFrame({"item_id": ["new"], "title": ["N"], "n": [7]}),
        )
        expected = make_vectors(5)[[0]].astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(more.vectors_of(["new"]), added[:1], atol=2e-2)
        np.testing.assert_allclose(more.vectors_of(["delta"]), expected, atol=2e-2)
        titles = more.item_table.set_index("item_key")["title"]
        assert titles["new"] == "N"
        assert pd.isna(titles["alpha"])
        assert more.item_keys.ids_of(["new", "alpha"]).tolist() == [5, 6]

    def test_items_without_a_table_get_nulls(self, index: Any) -> None:
        more = index.extend(["new"], make_vectors(1))
        assert more.item_table.set_index("item_key").loc["new", ["title", "n"]].isna().all()

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (
                lambda index: index.remove(["alpha", "nope"]),
                ValueError,
                r"got 1 that are not, such as \['nope'\]",
            ),
            (lambda index: index.remove([1]), TypeError, r"item_ids: expected texts.*got 1 \(int"),
            (lambda index: index.remove("Ω"), TypeError, r"a list, .* of texts, .*got 'Ω' \(str\)"),
            (
                lambda index: index.extend({"m", "n"}, make_vectors(2)),
                TypeError,
                r"item_ids: expected a list, .* got \{.* \(set\)",
            ),
            (
                lambda index: index.extend(["Ω"], make_vectors(1)),
                ValueError,
                r"not yet in the index, got 1 that are, such as \['Ω'\]",
            ),
            (
                lambda index: index.extend(["n", "n"], make_vectors(2)),
                ValueError,
                "expected each once, got 1 repeated",
            ),
            (lambda index: index.extend([8], make_vectors(1)), TypeError, "expected texts"),
            (
                lambda index: index.extend(
                    ["n"], make_vectors(1), item_table=pd.DataFrame({"item_id": ["m"]})
                ),
                ValueError,
                r"got 1 of other ids, such as \['m'\]",
            ),
            (
                lambda index: index.extend(
                    ["n"], make_vectors(1), item_table=pd.DataFrame({"item_id": ["n"], "x": [1]})
                ),
                ValueError,
                "expected the columns of the index's table",
            ),
            (lambda index: index.with_item_keys("sku"), ValueError, "column: .* got 'sku' of"),
            (
                lambda index: index.without_item_keys().with_item_keys("item_id"),
                ValueError,
                "column: expected one of the item table beside item_id, got 'item_id' of",
            ),
            (
                lambda index: index.with_item_keys("title"),
                TypeError,
                "item_key: expected texts.*got",
            ),
        ],
    )
    def test_what_is_refused(
        self, index: Any, change: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            change(index)

    @pytest.mark.parametrize(
        ("table", "error", "message"),
        [
            ({"item_id": [1]}, TypeError, "item_table.item_id: expected texts"),
            ({"item_id": ["a", "a"]}, ValueError, "item_table.item_id: expected each once"),
            ({"title": ["a"]}, ValueError, "item_table: expected a column item_id"),
            ({"item_id": ["a"], "item_key": ["a"]}, ValueError, "column 'item_key': expected ano"),
            ({"item_id": ["z"]}, ValueError, r"got 1 of other ids, such as \['z'\]"),
        ],
    )
    def test_what_is_no_table_of_keys(
        self, kind: str, table: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            make(kind, ["a", "b"], make_vectors(2), pd.DataFrame(table))
        with pytest.raises(TypeError, match="item_table: expected a pandas DataFrame, got dict"):
            make(kind, ["a", "b"], make_vectors(2), table)

    def test_a_column_of_a_table_of_numbers(self, kind: str) -> None:
        table = pd.DataFrame({"item_id": [7, 3], "sku": ["seven", "three"], "title": ["S", "T"]})
        index = make(kind, [3, 7], make_vectors(2), table)
        keyed = index.with_item_keys("sku")
        assert not index.has_item_keys
        assert index.item_keys is None
        assert keyed.item_keys.keys_of([3, 7]).tolist() == ["three", "seven"]
        assert keyed.item_table.columns.tolist() == ["item_id", "item_key", "title"]
        numbers = keyed.without_item_keys()
        assert not numbers.has_item_keys
        assert len(numbers.remove([7])) == 1
        assert numbers.with_item_keys().has_item_keys

    def test_each_item_needs_a_key(self, kind: str) -> None:
        table = pd.DataFrame({"item_id": [7], "sku": ["seven"]})
        index = make(kind, [3, 7], make_vectors(2), table)
        with pytest.raises(ValueError, match="a row with a key for each of 2 items, got 1"):
            index.with_item_keys("sku")
        with pytest.raises(ValueError, match="got 'sku' of no table"):
            make(kind, [3], make_vectors(1)).with_item_keys("sku")


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("abcdefgh"), max_size=4))))
def test_any_additions_and_removals(changes: list[tuple[bool, list[str]]]) -> None:
    """Beside a dictionary: each key keeps the vector that it came with."""
    vectors = dict(zip("abcdefgh", make_vectors(8, seed=4), strict=True))
    held = {"a": vectors["a"]}
    index: Any = make("flat", ["a"], vectors["a"][None])
    for adds, keys in changes:
        chosen = [key for key in dict.fromkeys(keys) if (key in held) != adds]
        if adds:
            given_vectors = np.array([vectors[key] for key in chosen], np.float32)
            index = index.extend(chosen, given_vectors.reshape(-1, DIM))
            held |= {key: vectors[key] for key in chosen}
        else:
            index = index.remove(chosen)
            held = {key: vector for key, vector in held.items() if key not in chosen}
        assert sorted(index.item_keys.keys_of(index.item_ids)) == sorted(held)
        for key, vector in held.items():
            np.testing.assert_array_equal(index.vectors_of([key])[0], vector)


def test_what_else_an_index_can_do_keeps_its_keys() -> None:
    keys, vectors = ["b", "a", "c"], make_vectors(3)
    index: Any = make("ivf", keys, vectors)
    for changed in (
        index.with_n_probes(1),
        index.with_refine(2),
        index.without_vectors(),
        index.without_vectors().with_vectors(keys, vectors, "int8"),
        index.without_list_lengths(),
        index.with_item_table(pd.DataFrame({"item_id": ["c"], "title": ["C"]})),
        index.with_item_table(None),
        index.part(slice(0, 3)),
    ):
        assert changed.item_keys.ids_of(keys).tolist() == [0, 1, 2]
    titled = index.with_item_table(pd.DataFrame({"item_id": ["c"], "title": ["C"]}))
    assert titled.item_table.set_index("item_key")["title"].dropna().to_dict() == {"c": "C"}
    with pytest.raises(ValueError, match="item_ids: expected each once"):
        index.with_vectors(["b", "b", "c"], vectors)
    np.testing.assert_array_equal(index.decode(["c"]), index.without_item_keys().decode([2]))


def test_info_of_the_same_name() -> None:
    """It would be taken for that of keys: refused, unless the table has them."""
    message = "info: expected no key 'item_keys', .*got {}: give it another name"
    codes = ItemCodes(np.array([1]), np.array([0], np.int32), np.zeros((1, 3), np.uint8))
    of: Any = make_params(), make_quantization()
    with pytest.raises(ValueError, match=message.format("True")):
        Index.from_codes(*of, codes, info={"item_keys": True})
    for ids in (["a"], [1]):
        with pytest.raises(ValueError, match=message.format("'sku'")):
            Index.from_vectors(*of, ids, make_vectors(1), info={"item_keys": "sku"})
        with pytest.raises(ValueError, match=message.format("'sku'")):
            FlatIndex.from_vectors(ids, make_vectors(1), info={"item_keys": "sku"})
    index = Index.from_vectors(*of, ["a"], make_vectors(1))
    again = Index.from_codes(
        *of, index.item_codes, item_table=index.item_table, info=dict(index.info)
    )
    assert again.item_keys.keys_of(again.item_ids).tolist() == ["a"]


def test_a_table_keeps_a_column_of_that_name() -> None:
    table = pd.DataFrame({"item_id": [3], "sku": ["three"], "item_key": ["drei"]})
    index = make("ivf", [3], make_vectors(1), table)
    with pytest.raises(ValueError, match="expected 'item_key', which the table has and would lose"):
        index.with_item_keys("sku")
    assert index.with_item_keys().item_keys.keys_of([3]).tolist() == ["drei"]


def test_no_room_above_the_largest_id() -> None:
    table = pd.DataFrame({"item_id": [LARGEST_ID - 1], "sku": ["last"]})
    index = make("ivf", [LARGEST_ID - 1], make_vectors(1), table).with_item_keys("sku")
    with pytest.raises(ValueError, match=r"expected room above the index's ids, up to \d+, got"):
        index.extend(["one", "more"], make_vectors(2))
