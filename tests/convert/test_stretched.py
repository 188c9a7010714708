"""An index of a stretched space has no place in the files of others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from merlin_poeem import Index
from merlin_poeem.convert.cuvs import save_cuvs
from merlin_poeem.convert.faiss import to_faiss
from merlin_poeem.convert.poeem import write_poeem
from tests.index_factories import random_index

Convert = Callable[[Index, Path], None]
CONVERTERS: dict[str, Convert] = {
    "a Faiss index": lambda index, path: to_faiss(index, without_scales=True),
    "a cuVS file": lambda index, path: save_cuvs(index, path, without_scales=True),
    "a Poeem file": lambda index, path: write_poeem(
        index, path, drop_rotation=True, without_scales=True
    ),
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    convert = CONVERTERS[name]
    if name == "a Faiss index":
        pytest.importorskip("faiss")
    convert(random_index(rotation=True), tmp_path / "rotated")
    before = os.listdir(tmp_path)
    message = f"index: expected one without a query_rotation, as {name} has one matrix for items"
    with pytest.raises(ValueError, match=message):
        convert(random_index(rotation="stretched"), tmp_path / "stretched")
    assert os.listdir(tmp_path) == before
