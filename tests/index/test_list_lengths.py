"""The mean lengths of lists' items, and what they change in the lists that are visited."""

import json
from pathlib import Path

import numpy as np
import pytest

from merlin_poeem.evaluate import items_scanned
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import save_index
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.search import reference
from tests.index.saved_indexes import DIM, GOLDEN, N_LISTS, make_index, write_header


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("encodes_residual", [True, False])
def test_lengths_are_those_of_what_is_decoded(scales: bool, encodes_residual: bool) -> None:
    index = make_index(50, rotated=True, scales=scales, encodes_residual=encodes_residual)
    lengths = np.linalg.norm(index.decode(index.item_ids), axis=1)
    centroids = np.linalg.norm(index.quantization.coarse_centroids, axis=1)
    means = [lengths[index.list_ids == list_id].mean() for list_id in range(N_LISTS - 1)]
    expected = np.array([*means, centroids[-1]])  # the last list is empty
    assert index.list_lengths.dtype == index.list_factors.dtype == np.float32
    np.testing.assert_allclose(index.list_lengths, expected, rtol=1e-5)
    np.testing.assert_allclose(index.list_factors, expected / centroids, rtol=1e-5)
    assert index.list_factors[-1] == 1


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_other_metrics_have_none(metric: str) -> None:
    index = make_index(metric=metric)
    assert index.list_lengths is None
    assert index.list_factors is None
    assert index.extend([1], np.ones((1, DIM), np.float32)).list_lengths is None
    assert index.remove(index.item_ids[:1]).list_lengths is None


def two_lists(centroid: tuple[float, float]) -> Index:
    """Two items 4 from ``centroid``, across, in one list, and one at (2, 0) in the other."""
    codebook = np.array([[[0, 4], [0, -4], [0, 0], [0, 0]]], np.float32)
    quantization = Quantization(np.array([centroid, [2, 0]], np.float32), codebook)
    params = IVFPQParams(n_lists=2, pq_dim=1, pq_bits=2)
    codes = ItemCodes([1, 2, 3], [0, 0, 1], np.array([[0], [1], [2]], np.uint8))
    return Index.from_codes(params, quantization, codes)


def test_a_wide_list_is_visited_sooner() -> None:
    query, index = np.array([[1, 0]], np.float32), two_lists((1, 0))
    args = index.quantization, query, "inner_product"
    np.testing.assert_allclose(reference.list_scores(*args), [[1, 2]])
    with_factors = reference.list_scores(*args, index.list_factors)
    np.testing.assert_allclose(with_factors, [[17**0.5, 2]], rtol=1e-6)
    assert reference.search(index, query, k=3, n_probes=1).item_ids.tolist() == [1, 2]
    assert items_scanned(index, query, 1).tolist() == [2]


def test_a_list_about_zero_scores_zero() -> None:
    index = two_lists((0, 0))
    assert index.list_lengths[0] == 4
    assert index.list_factors[0] == 0
    query = np.array([[1, 1]], np.float32)
    args = index.quantization, query, "inner_product", index.list_factors
    assert reference.list_scores(*args)[0, 0] == 0


def test_tiny_centroids_have_finite_factors() -> None:
    index = two_lists((1e-42, 0))
    assert np.isfinite(index.list_factors).all()


def test_items_that_come_and_go_leave_no_trace() -> None:
    index = make_index(50)
    rng = np.random.default_rng(0)
    for step in range(30):
        vectors = (100 * rng.normal(size=(5, DIM))).astype(np.float32)
        index = index.extend(range(5), vectors)
        index = index.remove(range(5)) if step < 29 else index.remove(index.item_ids)
        if step < 29:
            expected = make_index(50)
            np.testing.assert_allclose(index.list_lengths64, expected.list_lengths64, rtol=1e-12)
    norms = np.linalg.norm(index.quantization.coarse_centroids, axis=1)
    np.testing.assert_allclose(index.list_lengths, norms, rtol=1e-6)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_parts_visit_the_lists_of_the_whole(metric: str) -> None:
    index = make_index(60, metric=metric, with_table=True)
    queries = np.random.default_rng(0).normal(size=(20, DIM)).astype(np.float32)
    whole = reference.search(index, queries, k=60, n_probes=2)
    parts = [index.part(slice(i, None, 7)) for i in range(7)]
    found = [reference.search(part, queries, k=60, n_probes=2) for part in parts]
    for i in range(20):
        ids = np.concatenate([result[i][1] for result in found])
        assert sorted(ids.tolist()) == sorted(whole[i][1].tolist())
    assert [len(part.item_table) for part in parts] == [part.n_items for part in parts]


# Of older files.


def test_version_1_has_neither_and_goes_on_without(tmp_path: Path) -> None:
    index = load_index(GOLDEN / "v1-plain")
    vectors = np.ones((1, index.dim), np.float32)
    save_index(index, tmp_path)
    assert json.loads((tmp_path / "header.json").read_text())["format_version"] == 2
    kept = load_index(tmp_path)
    others = index.extend([1], vectors), index.remove(index.item_ids[:3]), index.part(slice(3))
    again = index.with_metric("cosine").with_metric("inner_product")
    for other in (index, kept, *others, index.with_n_probes(1), again):
        assert other.scales is None
        assert other.list_lengths is None
        assert other.list_factors is None


@pytest.mark.parametrize("saved", [True, False])
def test_a_cosine_index_of_version_1_has_none_by_inner_product(saved: bool, tmp_path: Path) -> None:
    index = load_index(GOLDEN / "v1-rotated-4-bits")
    if saved:
        save_index(index, tmp_path / "again")
        index = load_index(tmp_path / "again")
    changed = index.remove(index.item_ids[:1])
    for each in (index, changed):
        assert each.with_metric("inner_product").list_factors is None


def test_a_cosine_index_has_some_by_inner_product(tmp_path: Path) -> None:
    index = make_index(metric="cosine")
    save_index(index, tmp_path)
    expected = Index.from_codes(
        index.with_metric("inner_product").params, index.quantization, index.item_codes
    )
    for each in (index, load_index(tmp_path)):
        got = each.with_metric("inner_product").list_factors
        np.testing.assert_array_equal(got, expected.list_factors)
    fewer = index.with_metric("inner_product").with_metric("cosine").remove(index.item_ids[:9])
    expected = Index.from_codes(expected.params, index.quantization, fewer.item_codes)
    got = fewer.with_metric("inner_product").list_factors
    np.testing.assert_array_equal(got, expected.list_factors)


def test_without_list_lengths_lists_score_as_before(tmp_path: Path) -> None:
    index = make_index()
    save_index(index, tmp_path)
    content = json.loads((tmp_path / "header.json").read_text())
    del content["header"]["has_list_lengths"]
    write_header(tmp_path, content)
    older = load_index(tmp_path)
    assert older.list_factors is None
    queries = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)
    scores = reference.list_scores(index.quantization, queries, "inner_product")
    best = scores.argmax(axis=1)
    for i in range(50):
        ids = reference.search(older, queries[i : i + 1], k=30, n_probes=1).item_ids
        assert set(ids) == set(index.item_ids[index.list_ids == best[i]])
    with_factors = scores * index.list_factors
    assert (with_factors.argmax(axis=1) != best).any()
