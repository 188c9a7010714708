"""Made-up catalogs: the same whichever part is asked for, and encoded as the definition says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.catalogs import CHUNK_ROWS, Catalog, build_index
from merlin_poeem.quantization import coding


@pytest.mark.parametrize("kind", ["clustered", "uniform"])
def test_catalog_is_the_same_in_parts(kind: Any) -> None:
    catalog = Catalog(kind, CHUNK_ROWS + 10, 4, seed=3)
    chunks = list(catalog.chunks())
    assert [len(chunk) for chunk in chunks] == [CHUNK_ROWS, 10]
    np.testing.assert_array_equal(catalog.first(CHUNK_ROWS + 5)[-5:], chunks[1][:5])
    np.testing.assert_array_equal(Catalog(kind, CHUNK_ROWS + 10, 4, seed=3).first(9), chunks[0][:9])
    assert not np.array_equal(Catalog(kind, CHUNK_ROWS + 10, 4, seed=4).first(9), chunks[0][:9])
    assert {chunk.dtype for chunk in chunks} == {np.dtype(np.float32)}
    assert not np.array_equal(catalog.queries(9), catalog.queries(9, part=1))
    np.testing.assert_array_equal(catalog.item_ids(np.array([0, 2])), [2**40, 2**40 + 14])


def test_clustered_items_have_skewed_lists(tmp_path: Path) -> None:
    catalog = Catalog("clustered", 20_000, 16)
    lengths = np.linalg.norm(catalog.first(20_000), axis=1)
    assert lengths.mean() == pytest.approx(1, abs=0.02)
    assert lengths.std() == pytest.approx(0.1, abs=0.02)
    index = build_index(catalog, code_bytes=4, n_lists=32, folder=tmp_path)
    assert index.list_sizes.std() > 0.3 * index.list_sizes.mean()


@pytest.mark.parametrize("pq_bits", [4, 8])
def test_index_is_encoded_as_defined_and_kept(pq_bits: int, tmp_path: Path) -> None:
    catalog = Catalog("clustered", 3000, 16)
    index = build_index(catalog, code_bytes=4, n_lists=16, pq_bits=pq_bits, folder=tmp_path)
    assert index.packed_codes.shape == (3000, 4)
    list_ids, codes = coding.encode(index.quantization, catalog.first(3000))
    rows = index.rows_of(catalog.item_ids())
    assert (index.list_ids[rows] == list_ids).mean() > 0.999
    assert (index.codes[rows] == codes).mean() > 0.999
    [path] = tmp_path.iterdir()
    header = (path / "header.json").stat().st_mtime_ns
    again = build_index(catalog, code_bytes=4, n_lists=16, pq_bits=pq_bits, folder=tmp_path)
    np.testing.assert_array_equal(again.packed_codes, index.packed_codes)
    assert (path / "header.json").stat().st_mtime_ns == header


def test_unknown_kind_of_catalog() -> None:
    with pytest.raises(ValueError, match="kind: expected one of clustered, uniform; got 'x'"):
        Catalog("x", 10, 4)  # type: ignore[arg-type]
