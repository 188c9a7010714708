"""List columns of device arrays, as each release of cuDF makes them; nobody else imports cuDF."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from merlin_poeem.frames import cudf_calls
from merlin_poeem.frames.columns import read_lists
from tests import device_frames
from tests.device_arrays import counting_reads, share_memory

PACKAGE = Path(cudf_calls.__file__).parents[1]


@pytest.fixture
def older_cudf(cudf: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDF 23.12 in the place of the newest."""
    for name, module in device_frames.make_older_cudf().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "pylibcudf", None)


def make_lists() -> None:
    """Make a list column of two device arrays, and see that it holds them as they are."""
    offsets = device_frames.cupy.asarray(np.array([0, 2, 2, 3], np.int32))
    values = device_frames.cupy.asarray(np.array([0.5, np.nan, 2], np.float32))
    with counting_reads() as reads:
        column = cudf_calls.list_column_of_device(offsets, values)
    assert not reads
    assert [row.tolist() for row in device_frames.peek(column)][1:] == [[], [2.0]]
    assert share_memory(column.list.leaves.values, values)


def test_device_lists(cudf: ModuleType) -> None:
    make_lists()


@pytest.mark.usefixtures("older_cudf")
def test_device_lists_of_an_older_cudf() -> None:
    make_lists()


@pytest.mark.usefixtures("older_cudf")
def test_host_lists_of_an_older_cudf() -> None:
    column = cudf_calls.list_column_of_host(np.array([0, 1, 3], np.int32), np.arange(3))
    assert [row.tolist() for row in device_frames.peek(column)] == [[0], [1, 2]]


@pytest.mark.usefixtures("older_cudf")
def test_a_cudf_that_has_neither_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["cudf.core.column"], "build_list_column")
    with pytest.raises(ImportError, match=r"expected Series\.from_pylibcudf or, as in 23\.12, "):
        make_lists()


def test_a_pylibcudf_without_the_ways_of_the_newest(
    cudf: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(device_frames.Column, "from_cuda_array_interface")
    with pytest.raises(ImportError, match="got neither"):
        make_lists()


def test_lists_of_lists_are_refused(cudf: ModuleType) -> None:
    inner = device_frames.ListSeries.of([[1], [2, 3]], np.int64)
    offsets = device_frames.cupy.asarray(np.array([0, 2], np.int32))
    frame = device_frames.DataFrame({"seen": device_frames.ListSeries(offsets, inner)})
    with pytest.raises(TypeError, match="column 'seen': expected lists of numbers, got List"):
        read_lists(frame, "seen", on_device=True)


def test_no_other_module_imports_cudf() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "asname")]
            names.append(getattr(node, "module", None) or "")
            if {name.partition(".")[0] for name in names} & {"cudf", "pylibcudf"}:
                assert path.name == "cudf_calls.py", path
