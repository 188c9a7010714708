"""Item scales and list lengths have no place in the files of others: lost only where told."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem import Index, ItemCodes
from merlin_poeem.convert.cuvs import save_cuvs
from merlin_poeem.convert.faiss import from_faiss, to_faiss
from merlin_poeem.convert.poeem import read_poeem, write_poeem
from merlin_poeem.search import reference
from tests.index_factories import random_index, random_queries

faiss = pytest.importorskip("faiss")


def write_faiss(index: Index, path: Path, **options: Any) -> None:
    faiss.write_index(to_faiss(index, **options), str(path))


def read_faiss(path: Path) -> Index:
    return from_faiss(faiss.read_index(str(path)))


def without_scales(index: Index) -> Index:
    """The codes alone, in lists that score ⟨q, c⟩."""
    quantization = replace(index.quantization, scale_range=None)
    codes = ItemCodes(index.item_ids, index.list_ids, index.codes)
    return Index.from_codes(index.params, quantization, codes).without_list_lengths()


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_faiss, "a Faiss index"), (save_cuvs, "a cuVS file"), (write_poeem, "a Poeem file")],
)
def test_scales_are_lost_only_where_told(
    write: Callable[..., None], name: str, tmp_path: Path
) -> None:
    index = random_index()
    message = f"index: expected one without item scales, which {name} can't hold; without_scales="
    with pytest.raises(ValueError, match=message):
        write(index, tmp_path / "file")
    assert os.listdir(tmp_path) == []
    write(index, tmp_path / "file", without_scales=True)
    write(without_scales(index), tmp_path / "plain")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize("write", [write_faiss, save_cuvs, write_poeem])
def test_stored_vectors_are_left_out(write: Callable[..., None], tmp_path: Path) -> None:
    index = random_index(scales=False, vectors="float16").with_refine(4)
    write(index, tmp_path / "file")
    write(index.without_vectors(), tmp_path / "plain")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize(
    ("write", "read"),
    [(write_faiss, read_faiss), (write_poeem, read_poeem)],
    ids=["faiss", "poeem"],
)
def test_what_is_read_has_neither(
    write: Callable[..., None], read: Callable[[Path], Index], tmp_path: Path
) -> None:
    index = random_index(spread=0.3)
    write(index, tmp_path / "file", without_scales=True)
    got, expected = read(tmp_path / "file"), without_scales(index)
    assert got.scales is None
    assert got.list_lengths is None
    queries = random_queries(index, 20)
    found = [reference.search(each, queries, k=9, n_probes=2) for each in (got, expected)]
    np.testing.assert_array_equal(found[0].item_ids, found[1].item_ids)
    # It would matter.
    with_lengths = Index.from_codes(got.params, got.quantization, got.item_codes)
    other = reference.search(with_lengths, queries, k=9, n_probes=2)
    assert not np.array_equal(other.item_ids, found[0].item_ids)
