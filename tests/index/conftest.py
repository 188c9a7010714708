"""What every test of saved indexes may use."""

from pathlib import Path

import pytest

from merlin_poeem.index.saving import save_index
from tests.index.saved_indexes import make_index


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small saved index with an item table."""
    save_index(make_index(with_table=True), tmp_path / "index")
    return tmp_path / "index"
