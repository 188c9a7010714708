"""Served towers where there is neither TensorFlow nor Merlin: what they take, give and refuse."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem.serving.tower_facts import HEADER_FILE, TowerFacts
from merlin_poeem.serving.towers import ServedTower, check_tensors, open_tower

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "served-tower"
EXAMPLE = json.loads((GOLDEN / "served-tower.json").read_text())
DTYPES = {"age": np.float32, "genres__offsets": np.int32}
FACTS = TowerFacts.load(FOLDER)


def tensors() -> dict[str, Any]:
    return {
        name: np.array(values, DTYPES.get(name, np.int64))
        for name, values in EXAMPLE["tensors"].items()
    }


@pytest.fixture(scope="module")
def tower() -> ServedTower:
    pytest.importorskip("onnxruntime")
    return open_tower(FOLDER)


def test_it_gives_what_it_gave_where_it_was_trained(tower: ServedTower) -> None:
    vectors = tower.vectors(tensors())
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, EXAMPLE["vectors"], atol=1e-6)


def test_each_row_alone_is_as_in_the_batch(tower: ServedTower) -> None:
    given = tensors()
    offsets = given["genres__offsets"]
    for row, expected in enumerate(EXAMPLE["vectors"]):
        start, stop = offsets[row : row + 2]
        one = {name: values[row : row + 1] for name, values in given.items()}
        one["genres__values"] = given["genres__values"][start:stop]
        one["genres__offsets"] = np.array([0, stop - start], np.int32)
        np.testing.assert_allclose(tower.vectors(one)[0], expected, atol=1e-6)


def test_no_rows(tower: ServedTower) -> None:
    none = {name: values[:0] for name, values in tensors().items()}
    assert tower.vectors({**none, "genres__offsets": np.zeros(1, np.int32)}).shape == (0, FACTS.dim)


def test_how_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    caplog.set_level(logging.INFO)
    tower = open_tower(FOLDER, threads=2, device="cpu")
    assert tower.runtime == f"onnxruntime {onnxruntime.__version__} on cpu"
    assert tower.runtime in caplog.text
    np.testing.assert_allclose(tower.vectors(tensors()), EXAMPLE["vectors"], atol=1e-6)
    with pytest.raises(ValueError, match="device: expected one of auto, cpu, cuda, got 'gpu'"):
        open_tower(FOLDER, device="gpu")
    with pytest.raises(ValueError, match="threads: expected"):
        open_tower(FOLDER, threads=0)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ValueError, match="device: expected CUDA"):
            open_tower(FOLDER, device="cuda")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"user_id": None}, ValueError, r"tensors: expected \['age', .*'user_id'\], got \['age', "),
        ({"other": np.arange(9)}, ValueError, "tensors: expected .*, got .*'other'"),
        ({"age": np.arange(9.0)}, TypeError, "age: expected float32, got float64"),
        ({"user_id": np.arange(9, dtype="i4")}, TypeError, "user_id: expected int64, got int32"),
        ({"user_id": np.arange(9)[:, None]}, ValueError, r"user_id: expected shape \('n',\), got"),
        ({"home": np.zeros((9, 3), int)}, ValueError, r"home: expected shape \('n', 2\), got"),
        ({"user_id": np.arange(8)}, ValueError, "expected the same number of rows in all, got"),
        ({"genres__offsets": np.arange(10)}, TypeError, "genres__offsets: expected int32, got"),
        ({"genres__offsets": np.arange(10, dtype="i4")}, ValueError, "running from 0 to 21"),
        (
            {"genres__offsets": np.array([0, 5, 4, 5, 6, 7, 8, 9, 9, 21], "i4")},
            ValueError,
            "genres__offsets: expected never to fall",
        ),
        ({"genres__offsets": np.zeros(0, "i4")}, ValueError, r"expected shape \(n \+ 1,\)"),
    ],
)
def test_what_does_not_fit_is_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {name: value for name, value in {**tensors(), **change}.items() if value is not None}
    with pytest.raises(error, match=message):
        check_tensors(FACTS.features, given)


def test_vectors_that_are_not_finite() -> None:
    tower = ServedTower(FACTS, lambda _: np.full((9, FACTS.dim), np.nan, np.float32), "a stand-in")
    with pytest.raises(ValueError, match="query vectors: expected finite values"):
        tower.vectors(tensors())


@pytest.mark.parametrize(
    ("kind", "package"), [("onnx", "onnxruntime"), ("saved_model", "tensorflow")]
)
def test_a_runtime_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    TowerFacts(kind, "", FACTS.dim, FACTS.fingerprint, FACTS.features).save(tmp_path)
    for name in ("onnxruntime", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"needs {package}.*: pip install '{package}.*>="):
        open_tower(tmp_path)


def test_what_is_no_served_tower(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a served tower, got something else"):
        open_tower(tmp_path)
    shutil.copytree(FOLDER, tmp_path / "copy")
    told = json.loads((FOLDER / HEADER_FILE).read_text())
    for change, message in (
        ({"magic": "another"}, "expected 'merlin_poeem served tower', got 'another'"),
        ({"format_version": 2}, "got 2 and 'onnx': exported by a newer release"),
        ({"kind": "torch"}, "got 1 and 'torch': exported by a newer release"),
    ):
        (tmp_path / "copy" / HEADER_FILE).write_text(json.dumps({**told, **change}))
        with pytest.raises(ValueError, match=message):
            open_tower(tmp_path / "copy")


def test_facts_are_read_back_as_they_were(tmp_path: Path) -> None:
    FACTS.save(tmp_path)
    assert TowerFacts.load(tmp_path) == FACTS
    with pytest.raises(FileExistsError):
        FACTS.save(tmp_path)


def test_importing_it_imports_no_runtime() -> None:
    script = "import sys, merlin_poeem.serving.towers; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert not {"tensorflow", "onnxruntime", "merlin", "nvtabular", "pandas"} & set(loaded)
