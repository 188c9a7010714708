"""The checks on arrays that users hand in."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from merlin_poeem.arrays import (
    LARGEST_VALUE,
    array_module,
    as_item_ids,
    as_vectors,
    check_unique,
    largest_value,
    normalize,
    owned,
    read_only,
    to_host,
    type_name,
)
from tests.device_arrays import counting_reads, ndarray, share_memory

INT64 = np.iinfo(np.int64)


def test_types_are_named_with_their_library() -> None:
    stranger = type("LazyFrame", (), {"__module__": "polars.lazyframe.frame"})()
    things = {
        2: "int",
        "a": "str",
        None: "NoneType",
        np.int8(1): "numpy.int8",
        stranger: "polars.LazyFrame",
    }
    assert {thing: type_name(thing) for thing in things} == things
    assert type_name(pd.DataFrame()) == "pandas.DataFrame"


# Vectors.


def test_vectors_are_not_copied_without_need() -> None:
    vectors = np.ones((3, 2), np.float32)
    assert as_vectors("vectors", vectors, 2) is vectors
    turned = as_vectors("vectors", vectors.T)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, vectors.T)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, object])
def test_vectors_of_another_dtype(dtype: type) -> None:
    with pytest.raises(TypeError, match=r"queries: expected float32, got .*cast"):
        as_vectors("queries", np.ones((3, 2), dtype))


def test_a_column_of_vectors_is_no_array() -> None:
    column = pd.Series([np.ones(2, np.float32), np.ones(2, np.float32)])
    with pytest.raises(TypeError, match="expected float32, got object; make one array with numpy"):
        as_vectors("queries", column)
    assert as_vectors("queries", np.stack(column)).shape == (2, 2)


def test_vectors_as_lists_are_float64() -> None:
    with pytest.raises(TypeError, match="expected float32, got float64"):
        as_vectors("queries", [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [
        ((3,), None, r"expected two dimensions \(n, dim\), got shape \(3,\)"),
        ((1, 2, 3), None, "expected two dimensions"),
        ((3, 0), None, "expected shape at least one column"),
        ((3, 2), 4, r"expected shape \(n, 4\), got \(3, 2\)"),
        ((3, 0), 4, r"expected shape \(n, 4\)"),
    ],
)
def test_vectors_of_another_shape(shape: tuple[int, ...], dim: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_vectors("queries", np.ones(shape, np.float32), dim)


@given(
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.data(),
)
def test_one_value_that_is_not_finite(
    shape: tuple[int, int], value: float, data: st.DataObject
) -> None:
    vectors = np.ones(shape, np.float32)
    row, column = (data.draw(st.integers(0, size - 1)) for size in shape)
    vectors[row, column] = value
    with pytest.raises(ValueError, match=f"NaN or infinity, first in row {row}"):
        as_vectors("vectors", vectors)


def test_huge_values_are_finite() -> None:
    vectors = np.full((4, 4), np.finfo(np.float32).max)
    np.testing.assert_array_equal(as_vectors("vectors", vectors), vectors)


def test_no_vectors() -> None:
    assert as_vectors("vectors", np.empty((0, 3), np.float32), 3).shape == (0, 3)


def test_values_whose_products_leave_float32() -> None:
    vectors = np.ones((4, 3), np.float32)
    vectors[1] = LARGEST_VALUE, -LARGEST_VALUE, 0
    assert as_vectors("vectors", vectors, largest=largest_value("l2")) is vectors
    vectors[2, 1] = -2e15
    vectors[3, 0] = 3e38
    assert as_vectors("vectors", vectors, largest=largest_value("cosine")) is vectors
    message = r"queries: expected values of at most 1e\+15 .*; got -2e\+15, first in row 2"
    for metric in ("l2", "inner_product"):
        with pytest.raises(ValueError, match=message):
            as_vectors("queries", vectors, largest=largest_value(metric))


def test_not_finite_comes_before_too_large() -> None:
    vectors = np.full((4, 3), 3e38, np.float32)
    vectors[2, 1] = np.nan
    with pytest.raises(ValueError, match="got NaN or infinity, first in row 2"):
        as_vectors("vectors", vectors, largest=LARGEST_VALUE)


# Ids.


@given(
    hnp.arrays(
        st.sampled_from([np.int8, np.uint16, np.int32, np.int64, np.dtype(">i8")]),
        hnp.array_shapes(min_dims=1, max_dims=1, min_side=0),
    )
)
def test_integers_of_any_width(item_ids: np.ndarray) -> None:
    got = as_item_ids("item_ids", item_ids)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, item_ids)


@given(st.lists(st.integers(INT64.min, INT64.max)))
def test_python_integers(item_ids: list[int]) -> None:
    assert as_item_ids("item_ids", item_ids).tolist() == item_ids
    assert as_item_ids("item_ids", np.array(item_ids, object)).tolist() == item_ids


@pytest.mark.parametrize(
    "item_ids",
    [
        [1 << 63],
        [1, 1 << 63],
        [-1, 1 << 63],
        [1 << 64],
        [-(1 << 63) - 1],
        np.array([1, 1 << 63], np.uint64),
        np.array([1, 1 << 63], object),
        pd.Series([1 << 63], dtype="UInt64"),
    ],
)
def test_ids_that_overflow(item_ids: Any) -> None:
    with pytest.raises(ValueError, match="item_ids: expected values that fit in int64"):
        as_item_ids("item_ids", item_ids)


@pytest.mark.parametrize(
    "item_ids",
    [
        [1.0, 2.0],
        [1, None],
        [1, float("nan")],
        [True, False],
        ["1", "2"],
        np.array([1.0]),
        np.array([1.0], np.float32),
        np.array([True]),
        np.array([1, True], object),
        np.array([1], "timedelta64[s]"),
        np.array(["2020-01-01"], "datetime64[D]"),
        pd.Series([1, None]),
        pd.Series([1, None], dtype="Int64"),
    ],
)
def test_ids_that_are_no_integers(item_ids: Any) -> None:
    with pytest.raises(TypeError, match="item_ids: expected integers, got"):
        as_item_ids("item_ids", item_ids)


@pytest.mark.parametrize("item_ids", [[[1, 2]], 7, np.zeros((2, 0), np.int64)])
def test_ids_of_another_shape(item_ids: Any) -> None:
    with pytest.raises(ValueError, match="item_ids: expected one dimension"):
        as_item_ids("item_ids", item_ids)


@pytest.mark.parametrize("item_ids", [[], (), np.empty(0), pd.Series([], dtype=object)])
def test_no_ids(item_ids: Any) -> None:
    got = as_item_ids("item_ids", item_ids)
    assert got.dtype == np.int64
    assert got.shape == (0,)


def test_nullable_integers_without_nulls() -> None:
    assert as_item_ids("item_ids", pd.Series([3, 4], dtype="Int64")).tolist() == [3, 4]


def test_check_unique() -> None:
    check_unique("item_ids", np.array([3, 1, 2]))
    with pytest.raises(ValueError, match=r"item_ids: .*got 2 repeated, such as \[3, 7\]"):
        check_unique("item_ids", np.array([7, 3, 1, 3, 7, 3]))


# Memory of the caller.


@given(
    hnp.arrays(np.int32, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)),
    st.sampled_from([None, np.int32, np.int64]),
    st.sampled_from(["itself", "turned", "backwards", "view", "read_only_view", "series"]),
)
def test_what_is_owned_changes_with_nothing(given: np.ndarray, dtype: Any, form: str) -> None:
    memory = given.copy()
    array: Any = memory
    if form == "turned":
        array = memory.T
    elif form == "backwards":
        array = memory[::-1]
    elif form in ("view", "read_only_view"):
        array = memory[:]
        array.setflags(write=form == "view")
    elif form == "series" and memory.ndim == 1:
        array = pd.Series(memory, copy=False)
    expected = np.array(array, dtype, order="C")
    kept = owned(array, dtype)
    assert memory.flags.writeable
    memory += 1
    np.testing.assert_array_equal(kept, expected, strict=True)
    assert kept.flags.c_contiguous
    assert owned(kept) is kept
    with pytest.raises(ValueError, match="read-only"):
        kept[...] = 0


def test_what_nobody_writes_to_is_not_copied() -> None:
    array = np.arange(6)
    assert read_only(array) is array
    assert owned(array) is array
    assert np.shares_memory(owned(array[2:4]), array)
    assert owned(np.frombuffer(bytes(8), np.int64)).base is not None


# Normalising.


MAGNITUDES = st.floats(2**-100, 2**100, width=32)


@given(
    hnp.arrays(np.float32, (4, 3), elements=MAGNITUDES | MAGNITUDES.map(lambda x: -x) | st.just(0))
)
def test_normalize(vectors: np.ndarray) -> None:
    got = normalize(vectors)
    assert got.dtype == np.float32
    zero = ~vectors.any(axis=1)
    np.testing.assert_array_equal(got[zero], 0)
    np.testing.assert_allclose(np.linalg.norm(got[~zero], axis=1), 1, rtol=1e-5)
    assert (got * vectors >= 0).all()


# On a device.


def test_array_module(cupy: Any) -> None:
    on_host, on_device = np.arange(3), cupy.arange(3)
    assert array_module() is array_module([1], on_host) is np
    assert array_module(on_device) is array_module(on_host, on_device) is cupy
    assert to_host(on_host) is on_host
    np.testing.assert_array_equal(to_host(on_device), on_host, strict=True)


def test_vectors_stay_on_the_device(cupy: Any) -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    given = cupy.asarray(vectors)
    with counting_reads() as reads:
        got = as_vectors("queries", given, 2)
    assert reads == [1]
    assert share_memory(got, given)
    overflowing = cupy.asarray(np.full((2, 2), 3e38, np.float32))
    assert share_memory(as_vectors("queries", overflowing), overflowing)
    columns = as_vectors("queries", cupy.asarray(np.asfortranarray(vectors)))
    assert columns.strides == (8, 4)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (np.zeros((2, 2)), TypeError, "queries: expected float32, got float64"),
        (np.zeros(2, np.float32), ValueError, "queries: expected two dimensions"),
        (np.zeros((2, 3), np.float32), ValueError, r"expected shape \(n, 2\), got \(2, 3\)"),
        (np.array([[0, 1], [np.nan, 1]], np.float32), ValueError, "first in row 1"),
        (np.array([[0, 1], [1, 3e15]], np.float32), ValueError, "at most 1e.*first in row 1"),
    ],
)
def test_bad_vectors_on_the_device(
    cupy: Any, vectors: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        as_vectors("queries", cupy.asarray(vectors), 2, largest=LARGEST_VALUE)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64])
def test_ids_stay_on_the_device(cupy: Any, dtype: Any) -> None:
    with counting_reads() as reads:
        got = as_item_ids("item_ids", cupy.asarray(np.array([5, 3], dtype)))
    assert len(reads) == (dtype == np.uint64)
    assert type(got) is ndarray
    np.testing.assert_array_equal(got.get(), np.array([5, 3]), strict=True)
