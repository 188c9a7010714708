"""Towers for a server without Merlin: the vectors of the model, by ONNX Runtime or TensorFlow."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pytest
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import Tags

from merlin_poeem.blocks import load_query_tower, query_vectors, save_query_tower
from merlin_poeem.blocks.export import onnx_tower, served_tower
from merlin_poeem.blocks.export.served_tower import save_served_tower
from merlin_poeem.blocks.model.freshness import tower_fingerprints
from merlin_poeem.serving.tower_facts import HEADER_FILE, ONNX_FILE, TowerFacts
from merlin_poeem.serving.towers import open_tower
from tests.systems.toy import DIM, SCHEMA, USERS, features, mlp

pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")


def v1() -> Any:
    return mm.TwoTowerModel(SCHEMA, mlp())


def v2() -> Any:
    user, item = (SCHEMA.select_by_tag(tag) for tag in (Tags.USER, Tags.ITEM))
    return mm.TwoTowerModelV2(mm.Encoder(user, mlp()), mm.Encoder(item, mlp()), schema=SCHEMA)


@pytest.fixture(scope="module", params=[v1, v2], ids=["V1", "V2"])
def model(request: pytest.FixtureRequest) -> Any:
    tf.keras.utils.set_random_seed(0)
    model = request.param()
    row = USERS[:2].assign(item_id=[0, 1])
    model(next(iter(mm.Loader(Dataset(row, schema=SCHEMA), batch_size=2)))[0])
    return model


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "tower"
    save_query_tower(model, path)
    return path


@pytest.mark.parametrize(
    ("runtime", "kind", "requires"),
    [("onnx", "onnx", "onnxruntime"), ("tensorflow", "saved_model", "tensorflow")],
)
def test_the_served_tower_is_the_models(
    model: Any, saved: Path, tmp_path: Path, runtime: str, kind: str, requires: str
) -> None:
    facts = save_served_tower(saved, tmp_path / "served", runtime=runtime)
    assert facts == TowerFacts.load(tmp_path / "served")
    assert (facts.kind, facts.dim) == (kind, DIM)
    assert facts.fingerprint == tower_fingerprints(model)["query_tower"]
    assert [part.partition(">")[0] for part in facts.requires] == [requires]
    tower = open_tower(tmp_path / "served")
    assert tower.runtime.startswith(requires)
    for n in (1, len(USERS)):
        np.testing.assert_allclose(
            tower.vectors(features(n)), query_vectors(model, USERS[:n])[1], atol=1e-6
        )


def test_lists_of_any_length_and_none(saved: Path, tmp_path: Path) -> None:
    """Repeats, empty lists at either end and all empty, against TensorFlow."""
    for runtime in ("onnx", "tensorflow"):
        save_served_tower(saved, tmp_path / runtime, runtime=runtime)
    ours, theirs = (open_tower(tmp_path / runtime) for runtime in ("onnx", "tensorflow"))
    rng = np.random.default_rng(0)
    for lengths in ([3, 0, 2], [0, 0, 4], [0, 0, 0], [0], [1], [9, 0, 0], rng.integers(0, 7, 500)):
        n, offsets = len(lengths), np.cumsum([0, *lengths]).astype(np.int32)
        given = {
            "user_id": rng.integers(0, 30, n),
            "age": rng.random(n).astype(np.float32),
            "home": rng.integers(0, 9, (n, 2)),
            "genres__values": rng.integers(0, 9, offsets[-1]),
            "genres__offsets": offsets,
        }
        np.testing.assert_allclose(ours.vectors(given), theirs.vectors(given), atol=1e-6)


def test_lists_that_are_summed_up(tmp_path: Path) -> None:
    summed = mm.EmbeddingOptions(combiner="sum")
    model = mm.TwoTowerModel(SCHEMA, mlp(), embedding_options=summed)
    row = USERS[:2].assign(item_id=[0, 1])
    model(next(iter(mm.Loader(Dataset(row, schema=SCHEMA), batch_size=2)))[0])
    save_served_tower(model, tmp_path / "served", runtime="onnx")
    vectors = open_tower(tmp_path / "served").vectors(features())
    np.testing.assert_allclose(vectors, query_vectors(model, USERS)[1], atol=1e-6)


SCRIPT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "merlin", "nvtabular", "tf2onnx"):
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Refuse())
import numpy as np
from merlin_poeem.serving.towers import open_tower
with np.load(sys.argv[2]) as given:
    np.save(sys.argv[3], open_tower(sys.argv[1]).vectors(dict(given)))
"""


@pytest.mark.parametrize("model", [v1], indirect=True, ids=["V1"])
def test_at_the_server_onnx_needs_neither_tensorflow_nor_merlin(model: Any, tmp_path: Path) -> None:
    save_served_tower(model, tmp_path / "served", runtime="onnx")
    np.savez(tmp_path / "given.npz", **features())
    arguments = [tmp_path / "served", tmp_path / "given.npz", tmp_path / "found.npy"]
    subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], check=True, timeout=120)
    np.testing.assert_allclose(np.load(arguments[2]), query_vectors(model, USERS)[1], atol=1e-6)


@pytest.mark.parametrize("model", [v1], indirect=True, ids=["V1"])
class TestWhatIsTaken:
    """ONNX where it does, and why it did not where not."""

    def test_onnx_where_nothing_is_named(
        self, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        assert save_served_tower(saved, tmp_path / "served").kind == "onnx"
        assert "exported as an ONNX model (the same vectors by ONNX Runtime" in caplog.text

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("MOST_BYTES", 100, r"ValueError: tower: expected weights of at most 100 bytes .* got"),
            ("OPSET", 9, r"\w+: .+"),
            ("_segment_mean", lambda graph, node, *_: None, r"\w+: .*SparseSegmentMean"),
        ],
    )
    def test_a_tower_that_does_not_convert(
        self,
        saved: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        value: Any,
        reason: str,
    ) -> None:
        monkeypatch.setattr(onnx_tower, name, value)
        with pytest.raises(ValueError, match=f"runtime: expected a tower that ONNX .* {reason}"):
            save_served_tower(saved, tmp_path / "named", runtime="onnx")
        assert not (tmp_path / "named").exists()
        facts = save_served_tower(saved, tmp_path / "served")
        assert facts.kind == "saved_model"
        (record,) = [r for r in caplog.records if r.name == served_tower.__name__]
        assert record.levelno == logging.WARNING
        assert facts.reason in record.getMessage()
        assert "no ONNX model: " in facts.reason
        assert sorted(p.name for p in (tmp_path / "served").iterdir()) == [
            "query_tower",
            HEADER_FILE,
        ]
        assert open_tower(tmp_path / "served").vectors(features()).shape == (len(USERS), DIM)

    def test_a_conversion_that_is_wrong(
        self, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = onnx_tower._segment_mean

        def twice(graph: Any, node: Any, *_: Any) -> None:
            node.input[0] = onnx_tower._Nodes(graph)("Add", node.input[0], node.input[0])
            right(graph, node)

        monkeypatch.setattr(onnx_tower, "_segment_mean", twice)
        with pytest.raises(ValueError, match="vectors: expected those of TensorFlow within"):
            save_served_tower(saved, tmp_path / "served", runtime="onnx")

    @pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
    def test_a_package_that_is_missing(
        self, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModuleNotFoundError, match=rf"needs {package}, .* \(extra: serving\)"):
            save_served_tower(saved, tmp_path / "named", runtime="onnx")
        facts = save_served_tower(saved, tmp_path / "served")
        assert facts.kind == "saved_model"
        assert package in facts.reason

    def test_an_unknown_runtime(self, saved: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="runtime: expected one of auto, onnx, tensorflow"):
            save_served_tower(saved, tmp_path / "served", runtime="torch")

    def test_a_folder_that_holds_something(self, saved: Path, tmp_path: Path) -> None:
        save_served_tower(saved, tmp_path / "served", runtime="tensorflow")
        with pytest.raises(OSError, match="not empty"):
            save_served_tower(saved, tmp_path / "served", runtime="tensorflow")
        shutil.rmtree(tmp_path / "served")
        (tmp_path / "served").mkdir()
        save_served_tower(saved, tmp_path / "served", runtime="tensorflow")

    def test_what_it_holds(self, saved: Path, tmp_path: Path) -> None:
        save_served_tower(saved, tmp_path / "served", runtime="onnx")
        assert sorted(p.name for p in (tmp_path / "served").iterdir()) == [ONNX_FILE, HEADER_FILE]
        told = json.loads((tmp_path / "served" / HEADER_FILE).read_text())
        assert told["requires"] == ["onnxruntime>=1.17"]


def test_large_tables_lie_beside_the_model(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_tower, "TABLE_BYTES", 200)
    save_served_tower(saved, tmp_path / "served", runtime="onnx")
    beside = [path.name for path in (tmp_path / "served").glob("*.bin")]
    assert len(beside) > 1
    rows = sum((tmp_path / "served" / name).stat().st_size for name in beside)
    weights = load_query_tower(saved).weights
    assert rows >= sum(4 * w.shape.num_elements() for w in weights if w.shape.num_elements() > 50)
    moved = (tmp_path / "served").rename(tmp_path / "moved")
    expected = load_query_tower(saved).vectors(USERS)
    np.testing.assert_allclose(open_tower(moved).vectors(features()), expected, atol=1e-6)
