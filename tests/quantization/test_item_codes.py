"""Quantization, ItemCodes and the packing of codes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from merlin_poeem.quantization.item_codes import ItemCodes, Quantization, pack_codes, unpack_codes
from tests.index_factories import random_stretch

CENTROIDS = np.zeros((3, 6), np.float32)
CODEBOOK = np.zeros((2, 16, 3), np.float32)
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0].astype(np.float32)
OF_ITEMS, OF_QUERIES = random_stretch(np.random.default_rng(0), 6)
STRETCHED = {"rotation": OF_ITEMS, "query_rotation": OF_QUERIES}


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.flat[1] = value
    return array


# Quantization.


def test_sizes() -> None:
    quantization = Quantization(CENTROIDS, CODEBOOK, ROTATION)
    sizes = {name: getattr(quantization, name) for name in ("dim", "n_lists", "pq_dim", "pq_len")}
    assert sizes == {"dim": 6, "n_lists": 3, "pq_dim": 2, "pq_len": 3}
    assert (quantization.pq_book_size, quantization.pq_bits) == (16, 4)
    assert quantization.encodes_residual


@pytest.mark.parametrize("pq_bits", range(1, 17))
def test_code_dtype(pq_bits: int) -> None:
    codebook = np.zeros((1, 1 << pq_bits, 1), np.float32)
    quantization = Quantization(np.zeros((1, 1), np.float32), codebook)
    assert quantization.pq_bits == pq_bits
    assert quantization.code_dtype == (np.uint8 if pq_bits <= 8 else np.uint16)


def test_rotation_there_and_back() -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    turned = Quantization(CENTROIDS, CODEBOOK, ROTATION)
    np.testing.assert_array_equal(turned.rotate(vectors), vectors @ ROTATION)
    np.testing.assert_allclose(turned.rotate_back(turned.rotate(vectors)), vectors, atol=1e-5)
    assert Quantization(CENTROIDS, CODEBOOK).rotate(vectors) is vectors
    assert Quantization(CENTROIDS, CODEBOOK).rotate_back(vectors) is vectors


def test_queries_are_rotated_as_items_are() -> None:
    queries = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    turned, plain = Quantization(CENTROIDS, CODEBOOK, ROTATION), Quantization(CENTROIDS, CODEBOOK)
    np.testing.assert_array_equal(turned.rotate_queries(queries), queries @ ROTATION)
    assert turned.rotation_of_queries is turned.rotation
    assert plain.rotate_queries(queries) is queries
    assert plain.rotation_of_queries is None


def test_a_stretched_space_there_and_back() -> None:
    queries, items = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    stretched = Quantization(CENTROIDS, CODEBOOK, OF_ITEMS, query_rotation=OF_QUERIES)
    np.testing.assert_array_equal(stretched.rotate(items), items @ OF_ITEMS)
    np.testing.assert_array_equal(stretched.rotate_queries(queries), queries @ OF_QUERIES)
    np.testing.assert_array_equal(stretched.rotation_of_queries, OF_QUERIES)
    np.testing.assert_allclose(stretched.rotate_back(stretched.rotate(items)), items, atol=1e-5)
    scores = stretched.rotate_queries(queries) @ stretched.rotate(items).T
    np.testing.assert_allclose(scores, queries @ items.T, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"coarse_centroids": np.zeros((3, 6))}, TypeError, "coarse_centroids: .*got float64"),
        ({"coarse_centroids": CENTROIDS[0]}, ValueError, "coarse_centroids: expected 2 dim"),
        ({"coarse_centroids": CENTROIDS[:0]}, ValueError, "coarse_centroids: .*none empty"),
        ({"coarse_centroids": with_value(CENTROIDS, np.nan)}, ValueError, "centroids: .*finite"),
        ({"codebook": np.zeros((2, 16, 3))}, TypeError, "codebook: expected float32"),
        ({"codebook": CODEBOOK[:, :15]}, ValueError, "codebook: .*a power of two; got 15"),
        ({"codebook": CODEBOOK[:, :1]}, ValueError, "codebook: .*a power of two; got 1"),
        ({"codebook": np.zeros((6, 1 << 17, 1), np.float32)}, ValueError, "got 131072"),
        ({"codebook": CODEBOOK[:1]}, ValueError, r"pq_dim \* pq_len = dim = 6, got \(1, 16, 3\)"),
        ({"codebook": with_value(CODEBOOK, np.inf)}, ValueError, "codebook: .*finite"),
        ({"rotation": ROTATION.astype(np.float64)}, TypeError, "rotation: expected float32"),
        ({"rotation": ROTATION[:5]}, ValueError, r"rotation: expected shape \(6, 6\)"),
        ({"rotation": 1.01 * ROTATION}, ValueError, "rotation: expected an orthogonal matrix"),
        ({"rotation": with_value(ROTATION, np.nan)}, ValueError, "rotation: .*finite"),
        ({"rotation": np.full((6, 6), 1e30, np.float32)}, ValueError, "orthogonal"),
        ({"rotation": np.float32(1e30) * ROTATION}, ValueError, "orthogonal"),
        ({"rotation": OF_ITEMS}, ValueError, "rotation: expected an orthogonal matrix"),
        ({"query_rotation": ROTATION}, ValueError, "query_rotation: expected none where there is"),
        (
            {**STRETCHED, "rotation": OF_ITEMS[:5]},
            ValueError,
            r"^rotation: expected shape \(6, 6\)",
        ),
        (
            {**STRETCHED, "query_rotation": OF_QUERIES[:, :5]},
            ValueError,
            r"query_rotation: expected shape \(6, 6\), got \(6, 5\)",
        ),
        (
            {**STRETCHED, "query_rotation": OF_QUERIES.astype(np.float64)},
            TypeError,
            "query_rotation: expected float32",
        ),
        (
            {**STRETCHED, "query_rotation": with_value(OF_QUERIES, np.inf)},
            ValueError,
            "query_rotation: .*finite",
        ),
        (
            {**STRETCHED, "query_rotation": OF_ITEMS},
            ValueError,
            "query_rotation: expected the transposed inverse of the rotation",
        ),
        (
            {**STRETCHED, "query_rotation": np.linalg.inv(OF_ITEMS).copy()},
            ValueError,
            "query_rotation: expected the transposed inverse of the rotation",
        ),
        ({"scale_range": [1.0, 2.0]}, TypeError, "scale_range: expected float32"),
        ({"scale_range": np.ones((1, 2), np.float32)}, ValueError, "scale_range: expected 1 dim"),
        (
            {"scale_range": np.ones(3, np.float32)},
            ValueError,
            r"scale_range: expected shape \(2,\)",
        ),
        ({"scale_range": np.float32([0, 1])}, ValueError, "expected 0 < low < high, got 0 and 1"),
        ({"scale_range": np.float32([2, 1])}, ValueError, "expected 0 < low < high, got 2 and 1"),
        ({"scale_range": np.float32([1, 1])}, ValueError, "expected 0 < low < high, got 1 and 1"),
        ({"scale_range": np.float32([1, np.inf])}, ValueError, "scale_range: .*finite"),
        ({"scale_range": np.float32([np.nan, 1])}, ValueError, "scale_range: .*finite"),
    ],
)
def test_quantization_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    values = {"coarse_centroids": CENTROIDS, "codebook": CODEBOOK, **change}
    with pytest.raises(error, match=message):
        Quantization(**values)


def test_a_quantization_keeps_no_memory_of_the_caller() -> None:
    before = {"coarse_centroids": CENTROIDS, "codebook": CODEBOOK, **STRETCHED}
    given = {name: array.copy() for name, array in before.items()}
    quantization = Quantization(**given)
    for name, expected in before.items():
        array, ours = given[name], getattr(quantization, name)
        array[...] = 7
        np.testing.assert_array_equal(ours, expected, strict=True)
        with pytest.raises(ValueError, match="read-only"):
            ours[...] = 0


def test_scale_table() -> None:
    table = Quantization(CENTROIDS, CODEBOOK, scale_range=np.float32([0.25, 8])).scale_table
    assert (table.shape, table.dtype) == ((256,), np.float32)
    assert table[[0, 1, 255]].tolist() == [0, 0.25, 8]
    np.testing.assert_allclose(table[2:] / table[1:-1], 32 ** (1 / 254), rtol=1e-6)
    with pytest.raises(ValueError, match="scale_table: expected a quantization with a scale_range"):
        _ = Quantization(CENTROIDS, CODEBOOK).scale_table


# ItemCodes.

IDS = np.array([5, 3, 1 << 41])
LISTS = np.array([0, 2, 0])
CODES = np.array([[1, 2], [3, 4], [5, 15]], np.uint8)
SCALES = np.array([0, 255, 7], np.uint8)
SCALED = Quantization(CENTROIDS, CODEBOOK, scale_range=np.array([0.5, 2], np.float32))


def test_item_codes() -> None:
    item_codes = ItemCodes(IDS.tolist(), LISTS, CODES)
    assert len(item_codes) == 3
    assert item_codes.item_ids.dtype == np.int64
    assert item_codes.list_ids.dtype == np.int32
    assert item_codes.codes.dtype == np.uint8
    item_codes.check_against(Quantization(CENTROIDS, CODEBOOK))


def test_no_item_codes() -> None:
    empty = ItemCodes([], np.empty(0, int), np.empty((0, 2), np.uint8))
    assert len(empty) == 0
    empty.check_against(Quantization(CENTROIDS, CODEBOOK))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (([5, 3, 5], LISTS, CODES), ValueError, "item_ids: expected each id once"),
        (([5.0, 3.0, 1.0], LISTS, CODES), TypeError, "item_ids: expected integers"),
        (([5, 3, 1 << 63], LISTS, CODES), ValueError, "item_ids: .*fit in int64"),
        ((IDS, LISTS[:2], CODES), ValueError, r"list_ids: expected integers of shape \(3,\)"),
        ((IDS, LISTS.astype(float), CODES), ValueError, "list_ids: expected integers"),
        ((IDS, -LISTS, CODES), ValueError, "list_ids: .*got -2 to 0"),
        ((IDS, LISTS + (1 << 31), CODES), ValueError, "list_ids: expected values from 0 to 2"),
        ((IDS, LISTS, CODES.astype(int)), TypeError, "codes: expected uint8 or uint16, got int64"),
        ((IDS, LISTS, CODES[0]), ValueError, r"codes: expected shape \(3, pq_dim\)"),
        ((IDS, LISTS, CODES[:2]), ValueError, r"codes: expected shape \(3, pq_dim\)"),
        ((IDS, LISTS, CODES, SCALES.astype(int)), TypeError, "scales: expected uint8, got int64"),
        ((IDS, LISTS, CODES, SCALES[:2]), ValueError, r"scales: expected shape \(3,\), got \(2,\)"),
    ],
)
def test_item_codes_refuse(values: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ItemCodes(*values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((IDS, LISTS + 1, CODES), "list_ids: expected values below n_lists = 3, got 3"),
        ((IDS, LISTS, CODES + 1), "codes: expected values below pq_book_size = 16, got 16"),
        ((IDS, LISTS, CODES[:, :1]), r"codes: expected shape \(n, 2\), got \(3, 1\)"),
    ],
)
def test_item_codes_of_another_quantization(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemCodes(*values).check_against(Quantization(CENTROIDS, CODEBOOK))


def test_scales_go_with_a_range_of_scales() -> None:
    ItemCodes(IDS, LISTS, CODES, SCALES).check_against(SCALED)
    with pytest.raises(ValueError, match="scales: expected one an item, as the quantization has a"):
        ItemCodes(IDS, LISTS, CODES).check_against(SCALED)
    with pytest.raises(ValueError, match="scales: expected none, as the quantization has no"):
        ItemCodes(IDS, LISTS, CODES, SCALES).check_against(Quantization(CENTROIDS, CODEBOOK))


@given(
    id_dtype=st.sampled_from([np.int64, np.int32]),
    list_dtype=st.sampled_from([np.int64, np.int32]),
    order=st.sampled_from("CF"),
)
def test_item_codes_keep_no_memory_of_the_caller(
    id_dtype: Any, list_dtype: Any, order: Any
) -> None:
    codes = np.array(CODES, order=order)
    given = [IDS.astype(id_dtype), LISTS.astype(list_dtype), codes, SCALES.copy()]
    expected = [array.copy() for array in given]
    item_codes = ItemCodes(*given)
    kept = (item_codes.item_ids, item_codes.list_ids, item_codes.codes, item_codes.scales)
    for array, ours, before in zip(given, kept, expected, strict=True):
        array[...] = 1
        np.testing.assert_array_equal(ours, before)
        with pytest.raises(ValueError, match="read-only"):
            ours[...] = 0


def test_read_only_item_codes_are_not_copied() -> None:
    item_codes = ItemCodes(IDS, LISTS, CODES, SCALES)
    names = ("item_ids", "list_ids", "codes", "scales")
    again = ItemCodes(*(getattr(item_codes, name) for name in names))
    for name in names:
        assert getattr(again, name) is getattr(item_codes, name)


# Packing.


@given(
    pq_bits=st.integers(1, 16),
    shape=st.tuples(st.integers(0, 5), st.integers(1, 7)),
    data=st.data(),
)
def test_pack_and_unpack(pq_bits: int, shape: tuple[int, int], data: st.DataObject) -> None:
    dtype = np.uint8 if pq_bits <= 8 else np.uint16
    elements = st.integers(0, (1 << pq_bits) - 1)
    codes = data.draw(hnp.arrays(dtype, shape, elements=elements))
    packed = pack_codes(codes, pq_bits)
    assert packed.dtype == dtype
    assert packed.shape == (shape[0], (shape[1] + 1) // 2 if pq_bits == 4 else shape[1])
    unpacked = unpack_codes(packed, shape[1], pq_bits)
    np.testing.assert_array_equal(unpacked, codes)
    assert unpacked.dtype == dtype


def test_the_even_subspace_is_in_the_low_half() -> None:
    assert pack_codes(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]
