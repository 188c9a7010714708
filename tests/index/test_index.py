"""Index: grouping by list, extending, removing, looking up."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.index.index import Index
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.quantization.stored_vectors import StoredVectors, VectorDtype
from merlin_poeem.search import reference
from tests.index.saved_indexes import assert_same_vectors
from tests.index_factories import random_stretch

DIM, N_LISTS, PQ_DIM = 6, 4, 3
FIRST_ID = (1 << 40) + 1


def make_params(metric: str = "inner_product", pq_bits: int = 4) -> IVFPQParams:
    return IVFPQParams(n_lists=N_LISTS, pq_dim=PQ_DIM, pq_bits=pq_bits, metric=metric, n_probes=2)


def make_quantization(
    pq_bits: int = 4, *, rotated: bool = True, scales: bool = False
) -> Quantization:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    return Quantization(
        rng.normal(size=(N_LISTS, DIM)).astype(np.float32),
        rng.normal(size=(PQ_DIM, 1 << pq_bits, DIM // PQ_DIM)).astype(np.float32),
        rotation if rotated else None,
        scale_range=np.array([0.25, 4], np.float32) if scales else None,
    )


def make_vectors(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def make_table(item_ids: Any) -> pd.DataFrame:
    return pd.DataFrame({"item_id": item_ids, "title": [f"title {i}" for i in item_ids]})


def make_index(
    n: int = 30,
    metric: str = "inner_product",
    *,
    with_table: bool = False,
    scales: bool = True,
    store_vectors: VectorDtype | None = None,
) -> Index:
    """With ``scales`` unless the metric is l2."""
    item_ids = FIRST_ID + np.random.default_rng(2).permutation(n)
    return Index.from_vectors(
        make_params(metric),
        make_quantization(scales=scales and metric != "l2"),
        item_ids,
        make_vectors(n),
        store_vectors=store_vectors,
        item_table=make_table(item_ids) if with_table else None,
        info={"made": "here"},
    )


def assert_same(got: Index, expected: Index) -> None:
    assert got.params == expected.params
    assert got.info == expected.info
    for name in ("list_offsets", "item_ids", "packed_codes", "codes", "list_ids", "scales"):
        if getattr(expected, name) is None:
            assert getattr(got, name) is None
        else:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), strict=True)
    assert_same_vectors(got.vectors, expected.vectors)
    if expected.list_lengths is None:
        assert got.list_lengths is None
    else:
        np.testing.assert_allclose(got.list_lengths64, expected.list_lengths64, rtol=1e-12)
        np.testing.assert_allclose(got.list_factors, expected.list_factors, rtol=1e-6)


# Building.


@pytest.mark.parametrize("pq_bits", [1, 4, 8, 9])
def test_rows_are_grouped_by_list_and_sorted_by_id(pq_bits: int) -> None:
    rng = np.random.default_rng(3)
    item_ids = rng.permutation(50) - 20
    list_ids = rng.integers(0, N_LISTS - 1, 50)
    quantization = make_quantization(pq_bits)
    codes = rng.integers(0, 1 << pq_bits, (50, PQ_DIM)).astype(np.uint16)
    index = Index.from_codes(
        make_params(pq_bits=pq_bits), quantization, ItemCodes(item_ids, list_ids, codes)
    )
    assert len(index) == index.n_items == 50
    assert index.list_sizes.tolist() == np.bincount(list_ids, minlength=N_LISTS).tolist()
    assert index.codes.dtype == quantization.code_dtype
    for list_id in range(N_LISTS):
        rows = slice(index.list_offsets[list_id], index.list_offsets[list_id + 1])
        assert index.item_ids[rows].tolist() == sorted(item_ids[list_ids == list_id])
        assert (index.list_ids[rows] == list_id).all()
    rows = index.rows_of(item_ids)
    np.testing.assert_array_equal(index.codes[rows], codes)
    np.testing.assert_array_equal(index.list_ids[rows], list_ids)


def test_item_codes_round_trip() -> None:
    index = make_index()
    again = Index.from_codes(index.params, index.quantization, index.item_codes, info=index.info)
    assert_same(again, index)


def test_from_vectors_encodes() -> None:
    index = make_index()
    list_ids, codes = coding.encode(index.quantization, make_vectors(30))
    scales = coding.scales_of(index.quantization, make_vectors(30), list_ids, codes)
    rows = index.rows_of(FIRST_ID + np.random.default_rng(2).permutation(30))
    np.testing.assert_array_equal(index.list_ids[rows], list_ids)
    np.testing.assert_array_equal(index.codes[rows], codes)
    np.testing.assert_array_equal(index.scales[rows], scales)


def test_cosine_normalises_items_before_they_are_encoded() -> None:
    params, quantization = make_params("cosine"), make_quantization(scales=True)
    vectors = make_vectors(30)
    scaled = vectors * np.linspace(0.1, 50, 30, dtype=np.float32)[:, None]
    index = Index.from_vectors(params, quantization, np.arange(30), vectors)
    assert_same(Index.from_vectors(params, quantization, np.arange(30), scaled), index)


def test_repr() -> None:
    assert repr(make_index()) == (
        "Index(n_items=30, dim=6, n_lists=4, pq_dim=3, pq_bits=4, metric='inner_product', "
        "n_probes=2)"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_lists": 5}, "quantization: expected n_lists = 5 .*got 4"),
        ({"pq_dim": 2}, "quantization: expected pq_dim = 2 .*got 3"),
        ({"pq_bits": 8}, "quantization: expected pq_bits = 8 .*got 4"),
    ],
)
def test_params_of_another_quantization(change: dict[str, int], message: str) -> None:
    params = replace(make_params(), **change)
    with pytest.raises(ValueError, match=message):
        Index.from_vectors(params, make_quantization(), [1], make_vectors(1))
    with pytest.raises(ValueError, match=message):
        Index.from_codes(params, make_quantization(), make_index().item_codes)


def test_codes_of_another_quantization() -> None:
    codes = ItemCodes([1], [N_LISTS], np.zeros((1, PQ_DIM), np.uint8))
    with pytest.raises(ValueError, match="list_ids: expected values below n_lists = 4"):
        Index.from_codes(make_params(), make_quantization(), codes)


@pytest.mark.parametrize(
    ("item_ids", "vectors", "error", "message"),
    [
        ([1, 2], make_vectors(3), ValueError, "item_ids: expected 3, one a vector; got 2"),
        ([1, 1], make_vectors(2), ValueError, "item_ids: expected each id once"),
        ([1.0, 2.0], make_vectors(2), TypeError, "item_ids: expected integers"),
        ([1, 1 << 63], make_vectors(2), ValueError, "item_ids: .*fit in int64"),
        ([1, 2], make_vectors(2).astype(float), TypeError, "vectors: expected float32"),
        ([1, 2], make_vectors(2)[:, 1:], ValueError, r"vectors: expected shape \(n, 6\)"),
        ([1], np.full((1, DIM), np.nan, np.float32), ValueError, "vectors: expected finite"),
    ],
)
def test_vectors_and_ids_refused(
    item_ids: Any, vectors: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Index.from_vectors(make_params(), make_quantization(), item_ids, vectors)
    with pytest.raises(error, match=message):
        make_index().extend(item_ids, vectors)


# Looking up.


def test_rows_of() -> None:
    index = make_index()
    np.testing.assert_array_equal(index.rows_of(index.item_ids), np.arange(30))
    assert index.rows_of(np.array([-1, FIRST_ID - 1, 1 << 60])).tolist() == [-1, -1, -1]
    empty = index.remove(index.item_ids)
    assert empty.rows_of(np.array([1, 2])).tolist() == [-1, -1]


def test_decode() -> None:
    index = make_index()
    chosen = index.item_ids[[7, 0, 7]]
    whole = coding.decode(index.quantization, index.list_ids, index.codes, index.scales)
    np.testing.assert_allclose(index.decode(chosen), whole[[7, 0, 7]], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected ids in the index, got 1 that are not.*\[3\]"):
        index.decode([3])


def test_with_n_probes() -> None:
    index = make_index(with_table=True)
    other = index.with_n_probes(3)
    assert (other.params.n_probes, index.params.n_probes) == (3, 2)
    assert other.item_ids is index.item_ids
    assert other.item_table is index.item_table
    with pytest.raises(ValueError, match="n_probes: expected at most n_lists = 4"):
        index.with_n_probes(5)


def test_scales_are_refused_by_l2() -> None:
    message = "quantization: expected no scale_range where the metric is l2, got one"
    params, trained = make_params("l2"), make_quantization(scales=True)
    with pytest.raises(ValueError, match=message):
        Index.from_vectors(params, trained, [1], make_vectors(1))
    with pytest.raises(ValueError, match=message):
        Index.from_codes(params, trained, make_index().item_codes)
    with pytest.raises(ValueError, match=message):
        make_index().with_metric("l2")


def test_scales_are_those_that_the_quantization_has() -> None:
    with_scales, without = make_index(), make_index(scales=False)
    with pytest.raises(ValueError, match="scales: expected one an item"):
        Index.from_codes(make_params(), make_quantization(scales=True), without.item_codes)
    with pytest.raises(ValueError, match="scales: expected none"):
        Index.from_codes(make_params(), make_quantization(), with_scales.item_codes)


@pytest.mark.parametrize("scales", [True, False])
def test_with_metric_searches_the_same_codes_otherwise(scales: bool) -> None:
    index = make_index(with_table=True, scales=scales)
    queries = make_vectors(3)
    for metric in ("inner_product", "cosine") if scales else ("inner_product", "cosine", "l2"):
        other = index.with_metric(metric)
        assert (other.params.metric, other.params.n_probes) == (metric, index.params.n_probes)
        assert other.packed_codes is index.packed_codes
        assert other.scales is index.scales
        assert other.item_table is index.item_table
        back = other.with_metric("inner_product")
        np.testing.assert_array_equal(back.list_factors, index.list_factors)
        made = Index.from_codes(other.params, index.quantization, index.item_codes)
        for got, expected in zip(
            reference.search(other, queries, k=5), reference.search(made, queries, k=5), strict=True
        ):
            np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match=r"metric: expected one of .*got 'dot'"):
        index.with_metric("dot")


# A stretched space.


def stretched(scales: bool = True) -> Quantization:
    plain = make_quantization(rotated=False, scales=scales)
    rotation, query_rotation = random_stretch(np.random.default_rng(4), DIM)
    return replace(plain, rotation=rotation, query_rotation=query_rotation)


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_a_stretched_index_decodes_extends_and_keeps_raw_vectors(metric: str) -> None:
    params, ids = make_params(metric), FIRST_ID + np.arange(30)
    whole = Index.from_vectors(params, stretched(), ids, make_vectors(30), store_vectors="float16")
    unit = make_vectors(30)
    if metric == "cosine":
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(whole.vectors_of(ids), unit, atol=2e-3)
    # Codes are the nearest in the stretched space, and what they stand for is in the raw one.
    coded = coding.encode(whole.quantization, unit)
    scales = coding.scales_of(whole.quantization, unit, *coded)
    np.testing.assert_array_equal(
        whole.decode(ids), coding.decode(whole.quantization, *coded, scales)
    )
    first = Index.from_vectors(
        params, stretched(), ids[:9], make_vectors(30)[:9], store_vectors="float16"
    )
    extended = first.extend(ids[9:], make_vectors(30)[9:])
    assert_same(extended, whole)
    again = whole.without_vectors().with_vectors(ids, make_vectors(30))
    assert_same_vectors(again.vectors, whole.vectors)


def test_a_stretched_space_keeps_neither_distances_nor_lengths() -> None:
    ids, vectors = FIRST_ID + np.arange(30), make_vectors(30)
    plain = Index.from_vectors(make_params(), stretched(scales=False), ids, vectors)
    scaled = Index.from_vectors(make_params(), stretched(), ids, vectors)
    for index in (plain, scaled):
        with pytest.raises(ValueError, match=r"expected no .*where the metric is l2, got one"):
            index.with_metric("l2")
    with pytest.raises(ValueError, match="expected no query_rotation where the metric is l2"):
        plain.with_metric("l2")
    message = (
        "expected a scale_range beside the query_rotation where the metric is cosine, got none"
    )
    with pytest.raises(ValueError, match=message):
        plain.with_metric("cosine")
    with pytest.raises(ValueError, match=message):
        Index.from_vectors(make_params("cosine"), stretched(scales=False), ids, vectors)
    assert scaled.with_metric("cosine").with_metric("inner_product").metric == "inner_product"


# Memory of the caller.


def arrays_of(index: Index) -> dict[str, np.ndarray]:
    names = ("list_offsets", "item_ids", "packed_codes", "codes", "list_ids", "scales")
    lists = ("list_lengths", "list_lengths64", "list_factors")
    shared = ("coarse_centroids", "codebook", "rotation", "query_rotation", "scale_range")
    arrays = {name: getattr(index, name) for name in (*names, *lists)}
    arrays |= {name: getattr(index.quantization, name) for name in shared}
    if index.vectors is not None:
        arrays |= {"values": index.vectors.values, "vector_scales": index.vectors.scales}
    return {name: array for name, array in arrays.items() if array is not None}


@given(pq_bits=st.sampled_from([1, 4, 8]), n=st.integers(1, 20), from_vectors=st.booleans())
def test_writing_to_what_was_given_changes_nothing(
    pq_bits: int, n: int, from_vectors: bool
) -> None:
    params, trained = make_params(pq_bits=pq_bits), make_quantization(pq_bits, scales=True)
    names = ("coarse_centroids", "codebook", "rotation", "scale_range")
    matrices = [getattr(trained, name).copy() for name in names]
    quantization = Quantization(*matrices[:3], scale_range=matrices[3])
    item_ids, vectors, info = FIRST_ID + np.arange(n), make_vectors(n), {"made": {"of": [1]}}
    table = pd.DataFrame({"item_id": item_ids, "row": np.arange(n)})
    list_ids, codes = (array.copy() for array in coding.encode(trained, vectors))
    scales = coding.scales_of(trained, vectors, list_ids, codes).copy()
    if from_vectors:
        index = Index.from_vectors(
            params,
            quantization,
            item_ids,
            vectors,
            store_vectors="float16",
            item_table=table,
            info=info,
        )
    else:
        item_codes = ItemCodes(item_ids, list_ids, codes, scales)
        index = Index.from_codes(params, quantization, item_codes, item_table=table, info=info)
    before = {name: array.copy() for name, array in arrays_of(index).items()}
    for array in (*matrices, item_ids, list_ids, codes, scales, vectors):
        array[...] = 1
    table["row"] = 0
    table.loc[0, "item_id"] = 5
    info["made"]["of"].append(2)
    for name, array in arrays_of(index).items():
        np.testing.assert_array_equal(array, before[name], strict=True)
    assert index.info == {"made": {"of": [1]}}
    assert index.item_table["row"].tolist() == list(range(n))
    assert index.item_table["item_id"].tolist() == (FIRST_ID + np.arange(n)).tolist()
    assert index.with_n_probes(1).info["made"]["of"] is not index.info["made"]["of"]


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("pq_bits", [4, 8])
def test_what_is_handed_out_is_read_only(pq_bits: int, scales: bool) -> None:
    trained = make_quantization(pq_bits, scales=scales)
    made = Index.from_vectors(make_params(pq_bits=pq_bits), trained, range(9), make_vectors(9))
    extended, reduced = made.extend([20], make_vectors(1)), made.remove([3])
    refined = made.with_vectors(range(9), make_vectors(9))
    for index in (made, extended, reduced, made.with_metric("cosine"), refined):
        handed_out = [*arrays_of(index).values(), *vars(index.item_codes).values()]
        for array in (array for array in handed_out if array is not None):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


# Extending and removing.


@given(
    counts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    metric=st.sampled_from(["inner_product", "cosine", "l2"]),
    pq_bits=st.sampled_from([1, 4, 8]),
    scales=st.booleans(),
    store_vectors=st.sampled_from([None, "float16", "int8"]),
)
def test_extending_is_building_at_once(
    counts: tuple[int, int],
    metric: str,
    pq_bits: int,
    scales: bool,
    store_vectors: VectorDtype | None,
) -> None:
    params = make_params(metric, pq_bits)
    quantization = make_quantization(pq_bits, scales=scales and metric != "l2")
    n = sum(counts)
    item_ids, vectors = FIRST_ID + np.random.default_rng(n).permutation(n), make_vectors(n)
    n_first, kept = counts[0], {"store_vectors": store_vectors}
    whole = Index.from_vectors(params, quantization, item_ids, vectors, **kept)
    first = Index.from_vectors(params, quantization, item_ids[:n_first], vectors[:n_first], **kept)
    before = first.codes.copy()
    assert_same(first.extend(item_ids[n_first:], vectors[n_first:]), whole)
    np.testing.assert_array_equal(first.codes, before)


@given(
    removed=st.sets(st.integers(0, 29)),
    scales=st.booleans(),
    store_vectors=st.sampled_from([None, "float16", "int8"]),
)
def test_removing_is_building_without(
    removed: set[int], scales: bool, store_vectors: VectorDtype | None
) -> None:
    index = make_index(scales=scales, store_vectors=store_vectors)
    item_ids = FIRST_ID + np.random.default_rng(2).permutation(30)
    kept = np.setdiff1d(np.arange(30), list(removed))
    expected = Index.from_vectors(
        index.params,
        index.quantization,
        item_ids[kept],
        make_vectors(30)[kept],
        store_vectors=store_vectors,
        info=index.info,
    )
    reduced = index.remove(item_ids[sorted(removed)])
    assert_same(reduced, expected)
    assert index.n_items == 30
    back = reduced.extend(item_ids[sorted(removed)], make_vectors(30)[sorted(removed)])
    assert_same(back, index)


def test_extending_changes_no_code_of_the_items_held() -> None:
    index = make_index()
    extended = index.extend([1, 2, 3], 100 * make_vectors(3))
    rows = extended.rows_of(index.item_ids)
    np.testing.assert_array_equal(extended.codes[rows], index.codes)
    np.testing.assert_array_equal(extended.list_ids[rows], index.list_ids)
    np.testing.assert_array_equal(extended.scales[rows], index.scales)
    assert extended.quantization is index.quantization


def test_ids_already_held() -> None:
    index = make_index()
    with pytest.raises(ValueError, match=rf"not yet in the index, got 1 .*\[{FIRST_ID}\]; remove"):
        index.extend([5, FIRST_ID], make_vectors(2))


def test_remove_refuses() -> None:
    index = make_index()
    with pytest.raises(ValueError, match=r"ids in the index, got 2 that are not.*\[5, 6\]"):
        index.remove([FIRST_ID, 5, 6])
    with pytest.raises(TypeError, match="item_ids: expected integers"):
        index.remove([float(FIRST_ID)])


def test_remove_everything_and_extend() -> None:
    index = make_index()
    empty = index.remove(index.item_ids)
    assert empty.n_items == 0
    assert empty.list_sizes.tolist() == [0] * N_LISTS
    assert empty.extend([9], make_vectors(1)).item_ids.tolist() == [9]


# Stored vectors.


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_vectors_put_on_afterwards_are_those_of_from_vectors(metric: str) -> None:
    at_once = make_index(metric=metric, store_vectors="int8")
    item_ids = FIRST_ID + np.random.default_rng(2).permutation(30)
    order = np.random.default_rng(3).permutation(30)
    vectors = make_vectors(30)[order]
    afterwards = make_index(metric=metric).with_vectors(item_ids[order], vectors, "int8")
    assert_same(afterwards, at_once)
    assert_same(afterwards.without_vectors(), make_index(metric=metric))
    assert afterwards.vectors.nbytes == 30 * (DIM + 4)


def test_vectors_are_those_that_a_search_compares() -> None:
    for metric in ("inner_product", "cosine", "l2"):
        index = make_index(metric=metric, store_vectors="float16")
        item_ids = FIRST_ID + np.random.default_rng(2).permutation(30)
        own = make_vectors(30)[np.argsort(item_ids)[index.item_ids - FIRST_ID]]
        if metric == "cosine":
            own = own / np.linalg.norm(own, axis=1, keepdims=True)
        got = index.vectors.decoded()
        if metric == "l2":
            got = got + index.vectors.origin
        np.testing.assert_allclose(index.quantization.rotate_back(got), own, atol=2e-3)
        np.testing.assert_allclose(index.vectors_of(index.item_ids[::-1]), own[::-1], atol=2e-3)
        with pytest.raises(ValueError, match="item_ids: expected ids in the index, got 1"):
            index.vectors_of([5])
        with pytest.raises(ValueError, match="index: expected one with vectors, got one without"):
            index.without_vectors().vectors_of(index.item_ids)


def test_refine_by_default() -> None:
    index = make_index(store_vectors="float16")
    assert (index.refine, make_index().refine) == (4, 0)
    assert [index.refine_of(k) for k in (1, 512, 513, 1024, 1025, 5000)] == [4, 4, 3, 2, 1, 1]
    assert (make_index().refine_of(1), index.with_refine(9).refine_of(5000)) == (0, 9)
    assert index.with_refine(2).refine == 2
    assert index.with_refine(2).with_n_probes(1).refine == 2
    assert index.with_refine(0).refine == 0
    assert index.with_refine(2).with_refine(None).refine == 4
    assert index.with_refine(2).without_vectors().refine == 0
    with pytest.raises(ValueError, match="refine: expected 0 or None in an index without vectors"):
        make_index().with_refine(2)
    with pytest.raises(ValueError, match="refine: expected at least 0, got -1"):
        index.with_refine(-1)


def test_vectors_refused() -> None:
    index = make_index()
    with pytest.raises(ValueError, match="store_vectors: expected float16 or int8, got 'bfloat16'"):
        make_index(store_vectors="bfloat16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="item_ids: expected all 30 items of the index, got 29"):
        index.with_vectors(index.item_ids[1:], make_vectors(29))
    with pytest.raises(ValueError, match="item_ids: expected each id once"):
        index.with_vectors(np.repeat(index.item_ids[:15], 2), make_vectors(30))
    with pytest.raises(ValueError, match="item_ids: expected ids in the index, got 1"):
        index.with_vectors([5, *index.item_ids[1:]], make_vectors(30))
    with pytest.raises(ValueError, match="item_ids: expected 29, one a vector; got 30"):
        index.with_vectors(index.item_ids, make_vectors(29))
    with pytest.raises(ValueError, match="vectors: expected finite values"):
        index.with_vectors(index.item_ids, np.full((30, DIM), np.nan, np.float32))
    l2 = make_index(metric="l2", store_vectors="int8")
    with pytest.raises(ValueError, match="metric: expected one that compares vectors as l2 does"):
        l2.with_metric("inner_product")
    with pytest.raises(ValueError, match="expected one that compares vectors as inner_product"):
        make_index(store_vectors="int8").with_metric("cosine")
    unit = make_index(metric="cosine", store_vectors="int8")
    assert unit.with_metric("inner_product").refine == 4
    with pytest.raises(TypeError, match="vectors: expected float32"):
        index.with_vectors(index.item_ids, None)  # type: ignore[arg-type]
    assert l2.without_vectors().with_metric("inner_product").params.metric == "inner_product"
    codes, params, quantization = index.item_codes, index.params, index.quantization
    few = StoredVectors.of(make_vectors(29), "int8")
    with pytest.raises(ValueError, match=r"vectors: expected shape \(30, 6\), got \(29, 6\)"):
        Index.from_codes(params, quantization, codes, vectors=few)
    moved = StoredVectors.of(make_vectors(30), "int8", np.ones(DIM, np.float32))
    with pytest.raises(ValueError, match="vectors: expected them counted from the middle"):
        Index.from_codes(params, quantization, codes, vectors=moved)


# The item table.


def test_table_follows() -> None:
    index = make_index(with_table=True)
    removed = index.item_ids[[2, 5]]
    reduced = index.remove(removed)
    assert set(reduced.item_table["item_id"]) == set(reduced.item_ids)
    assert reduced.item_table.index.tolist() == list(range(28))
    new_ids = [1, 2]
    extended = reduced.extend(new_ids, make_vectors(2), item_table=make_table(new_ids))
    assert set(extended.item_table["item_id"]) == set(extended.item_ids)
    assert extended.item_table.index.is_unique
    titles = extended.item_table.set_index("item_id")["title"]
    assert titles[1] == "title 1"
    assert titles[index.item_ids[0]] == f"title {index.item_ids[0]}"
    assert len(index.item_table) == 30


def test_table_stays_where_the_new_items_have_none() -> None:
    index = make_index(with_table=True)
    extended = index.extend([1], make_vectors(1))
    pd.testing.assert_frame_equal(extended.item_table, index.item_table)


def test_table_of_the_new_items_alone() -> None:
    with pytest.raises(ValueError, match="item_table: expected none"):
        make_index().extend([1], make_vectors(1), item_table=make_table([1]))


def test_table_of_large_integers() -> None:
    index = make_index()
    table = pd.DataFrame({"item_id": index.item_ids, "sku": 2**60 + 1 + np.arange(30)})
    index = index.with_item_table(table)
    more = index.extend(
        [1, 2], make_vectors(2), item_table=pd.DataFrame({"item_id": [1], "sku": [None]})
    )
    assert more.item_table["sku"].dtype == "Int64"
    assert more.item_table["sku"].tolist() == [*table["sku"], pd.NA]
    with pytest.raises(ValueError, match=r"got none of \['sku'\]"):
        index.extend([1], make_vectors(1), item_table=pd.DataFrame({"item_id": [1]}))


def test_rows_of_items_that_are_not_held() -> None:
    index = make_index(with_table=True)
    table = make_table([FIRST_ID, 7, 8])
    message = r"item_table: expected rows of the index's items alone, got 2 .*\[7, 8\]"
    with pytest.raises(ValueError, match=message):
        Index.from_codes(index.params, index.quantization, index.item_codes, item_table=table)
    with pytest.raises(ValueError, match=message):
        Index.from_vectors(
            index.params, index.quantization, [FIRST_ID], make_vectors(1), item_table=table
        )
    with pytest.raises(ValueError, match=message):
        index.with_item_table(table)
    with pytest.raises(ValueError, match=r"rows of the added items alone, got 2 .*\[\d+, 8\]"):
        index.extend([7], make_vectors(1), item_table=table)


def test_with_item_table() -> None:
    index = make_index(with_table=True)
    table = pd.DataFrame({"item_id": index.item_ids[[4, 2]], "year": [1990, 1991]}, index=[8, 8])
    other = index.with_item_table(table)
    pd.testing.assert_frame_equal(other.item_table, table.reset_index(drop=True))
    assert other.item_ids is index.item_ids
    assert other.packed_codes is index.packed_codes
    assert_same(other, index)
    assert other.with_item_table(None).item_table is None
    assert index.item_table.columns.tolist() == ["item_id", "title"]
    with pytest.raises(TypeError, match="item_table: expected a pandas DataFrame, got list"):
        index.with_item_table([1])


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (pd.DataFrame({"title": ["x"]}), ValueError, r"expected a column item_id, got \['title'\]"),
        (pd.DataFrame({"item_id": ["x"]}), TypeError, "item_table.item_id: expected integers"),
        (pd.DataFrame({"item_id": [0.5]}), TypeError, "item_table.item_id: expected integers"),
        (pd.DataFrame({"item_id": [1], 7: 0}), ValueError, "column 7: expected a name of text"),
        (
            pd.DataFrame({"item_id": [1], "x": pd.Categorical([1])}),
            ValueError,
            "column 'x': expected a dtype that a saved index gives back, got category",
        ),
    ],
)
def test_tables_refused(table: pd.DataFrame, error: type[Exception], message: str) -> None:
    index = make_index(with_table=True)
    with pytest.raises(error, match=message):
        index.extend([1], make_vectors(1), item_table=table)
    with pytest.raises(error, match=message):
        Index.from_codes(index.params, index.quantization, index.item_codes, item_table=table)
