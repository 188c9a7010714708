"""What every test may use: the folder of real data, and how hard hypothesis searches."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=100)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, named by MERLIN_POEEM_DATA; skips the test where it is absent."""
    name = os.environ.get("MERLIN_POEEM_DATA")
    if not name:
        pytest.skip("needs real data: MERLIN_POEEM_DATA is not set")
    path = Path(name).resolve()
    if not path.is_dir():
        pytest.skip(f"needs real data: MERLIN_POEEM_DATA={name} is not a folder")
    return path


@pytest.fixture(scope="session")
def dataset_dir(data_dir: Path) -> Callable[[str], Path]:
    """`dataset_dir("ml-1m")` is that data set's folder; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = data_dir / name
        if not path.is_dir():
            pytest.skip(f"needs real data: {data_dir} holds no {name}/")
        return path

    return find
