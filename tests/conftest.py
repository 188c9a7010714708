"""What every test may use: real data, stand-ins for CuPy and cuDF, how hard hypothesis searches."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

from merlin_poeem import progress
from tests.device_arrays import make_cupy
from tests.scheduling import ByFileAndModel, order_of

# The rooms of the half that trains.
collect_ignore = [] if find_spec("tensorflow") else ["blocks", "ops", "systems"]

settings.register_profile("default", deadline=None, max_examples=100)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process, and so do all files that use the toy model."""
    return ByFileAndModel(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: order_of(str(item.path)))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in of :mod:`tests.device_arrays`, in the place of CuPy."""
    module = make_cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture
def cudf(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in of :mod:`tests.device_frames`, in the place of cuDF and pylibcudf."""
    from tests.device_frames import make_cudf  # needs PyArrow, which few tests do

    module, pylibcudf = make_cudf()
    monkeypatch.setitem(sys.modules, "cudf", module)
    monkeypatch.setitem(sys.modules, "pylibcudf", pylibcudf)
    return module


@pytest.fixture
def long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """All work counts as long: what may show a bar shows it at once."""

    def timer(_: float, function: Callable[[], None]) -> Any:
        return SimpleNamespace(start=function, cancel=lambda: None)

    monkeypatch.setattr(progress, "Timer", timer)


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
