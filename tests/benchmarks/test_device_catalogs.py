"""Catalogs and codes made on a device, with NumPy in the place of CuPy."""

import numpy as np
import pytest

from benchmarks import device_catalogs
from benchmarks.device_catalogs import DeviceCatalog, build_device_index, k_means, nearest
from merlin_poeem.evaluate import recall_at_k
from merlin_poeem.quantization import coding
from merlin_poeem.search import reference

pytestmark = pytest.mark.once


def test_a_catalog_is_a_function_of_its_values() -> None:
    first, again = (DeviceCatalog(np, "clustered", 700, 8, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.queries(5), again.queries(5))
    other = DeviceCatalog(np, "clustered", 700, 8, seed=4)
    assert not np.array_equal(first.vectors, other.vectors)
    assert not np.array_equal(first.queries(5), first.queries(5, part=1))
    assert first.vectors.dtype == first.queries(5).dtype == np.float32
    assert first.item_ids().tolist() == [2**40 + 7 * row for row in range(700)]


def test_chunks_are_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_catalogs, "CHUNK_ROWS", 100)
    catalog = DeviceCatalog(np, "uniform", 250, 8)
    chunks = list(catalog.chunks())
    assert [len(chunk) for chunk in chunks] == [100, 100, 50]
    np.testing.assert_array_equal(np.concatenate(chunks), catalog.vectors)
    np.testing.assert_allclose(np.linalg.norm(catalog.vectors, axis=1), 1, rtol=1e-5)
    assert not np.array_equal(chunks[0], chunks[1])


def test_nearest_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, centroids = (rng.standard_normal((n, 4), np.float32) for n in (50, 7))
    expected = ((vectors[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    monkeypatch.setattr(device_catalogs, "DISTANCE_BYTES", 4 * 7 * 3)
    np.testing.assert_array_equal(nearest(np, vectors, centroids), expected)


def test_k_means_finds_clusters() -> None:
    rng = np.random.default_rng(1)
    centres = 10 * np.eye(4, dtype=np.float32)
    vectors = centres[rng.integers(0, 4, 400)] + 0.1 * rng.standard_normal((400, 4), np.float32)
    centroids = k_means(np, vectors, 16, 8, seed=0)
    gaps = np.linalg.norm(centres[:, None] - centroids, axis=2).min(axis=1)
    assert gaps.max() < 1


def test_codes_are_the_nearest() -> None:
    catalog = DeviceCatalog(np, "clustered", 900, 16)
    index = build_device_index(catalog, code_bytes=4, n_lists=8)
    rows = index.rows_of(catalog.item_ids())
    list_ids, codes = coding.encode(index.quantization, catalog.vectors)
    assert (index.list_ids[rows] == list_ids).mean() > 0.99
    assert (index.codes[rows] == codes).mean() > 0.99
    queries = catalog.queries(30)
    found = reference.search(index, queries, k=10, n_probes=8)
    exact = np.argsort(-(queries @ catalog.vectors.T), axis=1)[:, :10]
    assert recall_at_k(found, list(catalog.item_ids(exact)), 10) > 0.5


def test_four_bit_codes() -> None:
    catalog = DeviceCatalog(np, "uniform", 300, 16)
    index = build_device_index(catalog, code_bytes=4, n_lists=4, pq_bits=4)
    assert (index.params.pq_dim, index.codes.max()) == (8, 15)
