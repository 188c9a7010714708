"""The kernels, their launches and their emulation: the same in every environment."""

from pathlib import Path
from types import ModuleType

import pytest

from merlin_poeem import Index
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import random_index
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.openers import StandInDevice, open_emulated


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.once)


@pytest.fixture(scope="module")
def index() -> Index:
    return random_index()


@pytest.fixture
def searcher(index: Index) -> GpuSearcher:
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    return open_emulated(index)


@pytest.fixture
def stand_in(index: Index, cupy: ModuleType) -> GpuSearcher:
    """A searcher whose device arrays are not NumPy's."""
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    return GpuSearcher(index, StandInDevice(cupy))
