"""The table of an index: what is refused, how it grows, what a file makes of it."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from merlin_poeem.index.item_table import (
    check_item_table,
    check_rows,
    extend_item_table,
    from_parquet,
    nullable_dtype,
    to_parquet,
)

INTEGERS = ("int8", "int32", "int64", "uint8", "uint64", "Int16", "Int64", "UInt64")
FLOATS = ("float32", "float64", "Float64")
# Values at the edges of what the dtypes hold, and of what floats do.
NUMBERS = [0, 1, -1, 127, 255, 2**24 + 1, 2**53 + 1, 2**60 + 1, 2**63 - 1, 2**64 - 1, 0.5, 0.1]


def table(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"item_id": range(n), **columns})


def plain(column: Any) -> list[Any]:
    """Its values as Python's, None for a null."""
    return [None if pd.isna(value) else value for value in pd.Series(column).astype(object)]


def grown(held: Any, added: Any) -> pd.Series:
    """The column ``x`` of a table with the values ``held`` after those ``added``."""
    old, new = table(x=held), table(x=added)
    new["item_id"] += len(old)
    return extend_item_table(check_item_table(old), new, new["item_id"].to_numpy())["x"]


# What is checked.


def test_a_checked_table() -> None:
    given = table(title=["a", "b"], year=[1990, None]).set_index(np.array([7, 7]))
    given = given.astype({"item_id": "Int64"}).rename_axis(columns="of films")
    checked = check_item_table(given)
    assert checked.dtypes["item_id"] == np.int64
    assert checked.index.equals(pd.RangeIndex(2))
    assert checked.columns.name is None
    assert given.index.tolist() == [7, 7]
    expected = given.reset_index(drop=True)["title"]
    pd.testing.assert_series_equal(checked["title"], expected)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"item_id": [1]}, TypeError, "expected a pandas DataFrame, got dict"),
        (pd.Series([1], name="item_id"), TypeError, "got pandas.Series"),
        (pd.DataFrame({"title": ["x"]}), ValueError, r"expected a column item_id, got \['title'\]"),
        (table(x=[1]).rename(columns={"x": 7}), ValueError, "column 7: .* of text, got int; ren"),
        (table(x=[1]).rename(columns={"x": ("a", "b")}), ValueError, "column .'a', 'b'.: .*tuple"),
        (pd.concat([table(x=[1])] * 2, axis=1), ValueError, "column 'item_id': expected it once"),
        (pd.DataFrame({"item_id": ["x"]}), TypeError, "item_table.item_id: expected integers"),
        (pd.DataFrame({"item_id": [1, None]}), TypeError, "item_table.item_id: expected integers"),
        (
            pd.DataFrame({"item_id": pd.array([1, None], "Int64")}),
            TypeError,
            "item_table.item_id: expected integers",
        ),
        (
            pd.DataFrame({"item_id": [4, 5, 5, 4, 6]}),
            ValueError,
            r"item_table.item_id: expected each id once, got 2 repeated, such as \[4, 5\]",
        ),
    ],
)
def test_tables_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_item_table(given)


@pytest.mark.parametrize("library", ["cudf", "polars"])
def test_frames_of_other_libraries(library: str) -> None:
    class DataFrame:
        def to_pandas(self) -> pd.DataFrame:
            raise AssertionError("converted without being asked to")

    DataFrame.__module__ = f"{library}.dataframe.frame"
    with pytest.raises(TypeError, match=rf"got {library}.DataFrame; take its to_pandas\(\)"):
        check_item_table(DataFrame())


def test_rows_of_other_items() -> None:
    checked = check_item_table(table(x=[0, 1, 2]))
    check_rows(checked, np.array([3, 2, 1, 0]), "the index's items")
    with pytest.raises(ValueError, match=r"rows of the added items alone, got 2 .*\[0, 2\]; drop"):
        check_rows(checked, np.array([1, 5]), "the added items")


# What a file makes of it.

KEPT = {
    "numpy": np.array([1, 2], np.uint16),
    "large": np.array([2**63, 2**64 - 1], np.uint64),
    "nullable": pd.array([2**60 + 1, None], "Int64"),
    "flags": pd.array([True, None], "boolean"),
    "real": np.array([0.5, np.nan], np.float32),
    "texts": ["a", "b"],
    "strings": pd.array(["a", None], "string"),
    "category": pd.Categorical(["b", "a"]),
    "ordered": pd.Categorical(["b", None], categories=["z", "b", "a"], ordered=True),
    "no_category": pd.Categorical([None, None]),
    "time": pd.to_datetime(["2020-01-01", None]).astype("datetime64[ns]"),
    "zoned": pd.to_datetime(["2020-01-01", None]).tz_localize("Europe/Berlin"),
    "period": pd.period_range("2020-01", periods=2, freq="M"),
    "interval": pd.arrays.IntervalArray.from_breaks([0, 1, 2]),
    "lists": [[1], [2, 3]],
}


@pytest.mark.parametrize("name", KEPT)
def test_dtypes_that_a_file_keeps(name: str) -> None:
    checked = check_item_table(table(x=KEPT[name]))
    pd.testing.assert_frame_equal(from_parquet(to_parquet(checked)), checked)


@pytest.mark.parametrize(
    ("values", "became"),
    [
        (pd.Categorical([1, 2]), "int64"),
        (pd.Categorical([1.5, 2]), "float64"),
        (pd.Categorical([True, False]), "bool"),
    ],
)
def test_dtypes_that_a_file_does_not_keep(values: Any, became: str) -> None:
    given = table(x=values)
    message = rf"column 'x': .* got category, .* become {became}; .*astype\('{became}'\)"
    with pytest.raises(ValueError, match=message):
        check_item_table(given)
    checked = check_item_table(given.astype({"x": became}))
    pd.testing.assert_frame_equal(from_parquet(to_parquet(checked)), checked)


@pytest.mark.parametrize("values", [np.array([1j, 2]), pd.arrays.SparseArray([0, 1])])
def test_dtypes_that_no_file_holds(values: Any) -> None:
    with pytest.raises(ValueError, match=r"item_table: expected columns that Parquet can hold.*x"):
        check_item_table(table(x=values))


def test_a_table_that_was_changed_since() -> None:
    checked = check_item_table(table(x=[1, 2]))
    with pytest.raises(ValueError, match="column 7: expected a name of text"):
        to_parquet(checked.assign(**{"x": 0}).rename(columns={"x": 7}))
    with pytest.raises(ValueError, match="column 'x': expected a dtype that a saved index"):
        to_parquet(checked.astype({"x": "category"}))


def test_categories_without_rows_stay_categories() -> None:
    checked = check_item_table(table(x=pd.Categorical(["b", "a"]))).head(0)
    for _ in range(3):
        checked = from_parquet(to_parquet(checked))
        assert str(checked["x"].dtype) == "category"
    grown = extend_item_table(checked, table(x=["a", "b"]), np.arange(2))
    assert grown["x"].tolist() == ["a", "b"]


# How it grows.


def holds(dtype: str, value: Any) -> bool:
    """Whether ``value`` is a number that a column of that dtype can have."""
    if "int" not in dtype.lower():
        return float(np.dtype(dtype.lower()).type(value)) == value
    limits = np.iinfo(dtype.lower())
    return value == int(value) and limits.min <= value <= limits.max


@given(
    held=st.sampled_from(INTEGERS + FLOATS),
    dtype=st.sampled_from((*INTEGERS, *FLOATS, "object")),
    values=st.lists(st.none() | st.sampled_from(NUMBERS), min_size=1, max_size=3),
)
def test_numbers_are_added_unchanged_or_not_at_all(
    held: str, dtype: str, values: list[Any]
) -> None:
    numbers = [value for value in values if value is not None]
    assume(dtype == "object" or all(holds(dtype, value) for value in numbers))
    assume(None not in values or not dtype[0].islower() or dtype == "object")
    added = pd.Series(values, dtype=dtype)
    if not all(holds(held, value) for value in numbers):
        with pytest.raises(ValueError, match=r"column 'x': expected .* holds unchanged; got"):
            grown(pd.Series([1], dtype=held), added)
        return
    got = grown(pd.Series([1], dtype=held), added)
    room = None in values and "int" in held
    assert got.dtype == (nullable_dtype(np.dtype(held)) if room else held)
    assert plain(got) == [1, *values]


def test_refused_numbers() -> None:
    for held, added in [
        ("int64", [0.5]),
        ("int64", [True]),
        ("int64", ["5"]),
        ("int64", np.array([2**63], np.uint64)),
        ("uint64", [-1]),
        ("int8", [128]),
        ("float64", [2**53 + 1]),
        ("float32", [0.1]),
        ("bool", [1]),
    ]:
        with pytest.raises(ValueError, match=rf"column 'x': expected {held}, .*; got \w+"):
            grown(np.ones(1, held), added)


@pytest.mark.parametrize(
    ("held", "added", "dtype"),
    [
        (np.array([2**60 + 1]), [None], "Int64"),
        (np.array([2**60 + 1]), np.array([3.0, np.nan]), "Int64"),
        (np.array([2**60 + 1]), np.array([2**60 + 3, None], object), "Int64"),
        (np.array([2**60 + 1]), pd.array([2**60 + 3, None], "Int64"), "Int64"),
        (np.array([2**60 + 1]), pd.array([2**60 + 3], "Int64"), "int64"),
        (np.array([1], np.uint8), [None], "UInt8"),
        (pd.array([None], "Int32"), np.array([2**31 - 1]), "Int32"),
        (np.array([True]), [None, False], "boolean"),
        (np.array([0.5], np.float32), [None, 1], "float32"),
    ],
)
def test_nulls_turn_no_integers_into_floats(held: Any, added: Any, dtype: str) -> None:
    got = grown(held, added)
    assert got.dtype == dtype
    assert plain(got) == plain(held) + plain(added)


@given(
    held=st.lists(st.sampled_from("abc"), min_size=1),
    added=st.lists(st.none() | st.sampled_from("cde"), min_size=1),
    as_category=st.booleans(),
)
def test_categories_become_those_of_both(
    held: list[str], added: list[str | None], as_category: bool
) -> None:
    got = grown(pd.Categorical(held), pd.Categorical(added) if as_category else added)
    assert set(got.cat.categories) == {*held, *added} - {None}
    assert plain(got) == [*held, *added]
    assert check_item_table(table(x=got))["x"].dtype == got.dtype


def test_an_order_of_categories_gets_no_new_ones() -> None:
    held = pd.Categorical(["low"], categories=["low", "high"], ordered=True)
    assert grown(held, ["high", None]).dtype == held.dtype
    for added in (["middle"], [1]):
        with pytest.raises(ValueError, match="column 'x': expected category"):
            grown(held, added)


def test_a_category_of_texts_gets_nothing_else() -> None:
    for added in ([1], [[1]], [b"a"], [True]):
        with pytest.raises(ValueError, match=r"column 'x': expected category, .*; got"):
            grown(pd.Categorical(["a"]), added)


def test_texts_and_times() -> None:
    texts = pd.Series(["a"])
    for added in (["b"], pd.Categorical(["b"]), pd.array(["b"], "string")):
        got = grown(texts, added)
        assert (got.dtype, got.tolist()) == (texts.dtype, ["a", "b"])
    days = pd.to_datetime(["2020-01-01"])
    assert grown(days, days).tolist() == [*days, *days]
    zoned = days.tz_localize("UTC")
    for held, added in ((texts, [5]), (days, [5]), (days, zoned), (zoned, days), (days, ["2020"])):
        with pytest.raises(ValueError, match="column 'x': expected"):
            grown(held, added)


@pytest.mark.parametrize("dtype", ["int64", "bool", "float64", "object", "category", "<M8[ns]"])
def test_nothing_known_of_the_added_items(dtype: str) -> None:
    held = pd.Series([1, 0]).astype(dtype if dtype != "category" else "str").astype(dtype)
    for nulls in ([None], [np.nan], pd.array([None], "Int64"), pd.Categorical([None])):
        got = grown(held, nulls)
        assert got.dtype == nullable_dtype(held.dtype)
        assert got.isna().tolist() == [False, False, True]
    assert grown(held, pd.Series([], dtype=object)).dtype == held.dtype


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (table(y=[1]), r"got none of \['x'\]"),
        (table(x=[1], y=[1]), r"alone, got \['y'\] beside them"),
        (table(x=[1, 2]), r"rows of the added items alone, got 1 of other ids, such as \[1\]"),
        (table(x=[1, 2]).assign(item_id=0), r"expected each id once, got 1 repeated, .* \[0\]"),
        (table(x=[1]).rename(columns={"x": 7}), "column 7: expected a name of text"),
    ],
)
def test_added_tables_refused(added: pd.DataFrame, message: str) -> None:
    held = check_item_table(table(x=[5]).assign(item_id=9))
    with pytest.raises(ValueError, match=f"item_table.*{message}"):
        extend_item_table(held, added, np.array([0]))


def test_columns_may_come_in_another_order() -> None:
    held = check_item_table(table(x=[5], y=["a"]).assign(item_id=9))
    added = table(x=[6], y=["b"])[["y", "item_id", "x"]]
    got = extend_item_table(held, added, np.array([0]))
    assert got.to_dict("list") == {"item_id": [9, 0], "x": [5, 6], "y": ["a", "b"]}
