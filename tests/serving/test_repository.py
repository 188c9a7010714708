"""The folders that Triton is given, and what is refused before anything is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from merlin_poeem import Index, save_index
from merlin_poeem.serving import Serving, export_search
from merlin_poeem.serving.config import check_inputs
from merlin_poeem.serving.input_spec import InputSpec
from merlin_poeem.serving.repository import new_version
from merlin_poeem.serving.retrieval import Retrieval
from merlin_poeem.serving.spec import ServingSpec
from tests.index_factories import random_index


@pytest.fixture(scope="module")
def index() -> Index:
    index = random_index()
    table = pd.DataFrame({"item_id": index.item_ids, "title": "a"})
    return index.with_item_table(table)


@pytest.fixture(scope="module")
def index_path(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "items.index"
    save_index(index, path)
    return path


def tensors(config: str, side: str) -> dict[str, str]:
    """What ``config.pbtxt`` says of each tensor, by name."""
    lines = re.findall(rf'^{side} \[ {{ name: "(\w+)" (.*) }} \]$', config, re.MULTILINE)
    return dict(lines)


def test_a_version_holds_all_that_is_served(index_path: Path, tmp_path: Path) -> None:
    served = export_search(index_path, tmp_path / "repository", titles="title", name="films")
    assert served.folder == tmp_path / "repository" / "films" / "1"
    assert sorted(path.name for path in served.folder.iterdir()) == [
        "index",
        "model.py",
        "serving.json",
    ]
    assert served.requires == ["merlin-poeem[cpu]"]
    assert "pip install 'merlin-poeem[cpu]'" in (served.folder.parent / "INSTALL.txt").read_text()
    assert ServingSpec.load(served.folder).titles == "title"


def test_configuration(index_path: Path, tmp_path: Path) -> None:
    serving = Serving(most_rows=64, delay=500, instances=2, device="cpu")
    served = export_search(index_path, tmp_path, titles="title", serving=serving)
    config = (served.folder.parent / "config.pbtxt").read_text()
    inputs, outputs = tensors(config, "input"), tensors(config, "output")
    assert inputs["query_vector"] == "data_type: TYPE_FP32 dims: [ 16 ]"
    assert inputs["exclude"] == (
        "data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true optional: true"
    )
    assert inputs["exclude_count"] == "data_type: TYPE_INT32 dims: [ 1 ] optional: true"
    assert {*inputs} >= {"allow", "allow_count", "k", "n_probes", "refine"}
    assert list(outputs) == ["item_ids", "scores", "counts", "titles"]
    for line in (
        'name: "search"',
        'backend: "python"',
        "max_batch_size: 64",
        "dynamic_batching { max_queue_delay_microseconds: 500 }",
        "instance_group [ { kind: KIND_CPU count: 2 } ]",
    ):
        assert line in config.splitlines()


def test_without_titles_there_are_none(index_path: Path, tmp_path: Path) -> None:
    served = export_search(index_path, tmp_path)
    assert "titles" not in (served.folder.parent / "config.pbtxt").read_text()
    assert Retrieval(served.folder).spec.titles is None


def test_the_next_version_lies_beside_the_others(index_path: Path, tmp_path: Path) -> None:
    versions = [export_search(index_path, tmp_path).version for _ in range(3)]
    assert versions == [1, 2, 3]
    (tmp_path / "search" / "9").mkdir()
    assert export_search(index_path, tmp_path).version == 10


def test_a_version_of_other_tensors_is_refused(index_path: Path, tmp_path: Path) -> None:
    served = export_search(index_path, tmp_path)
    with pytest.raises(ValueError, match=r"config\.pbtxt: expected the tensors and options"):
        export_search(index_path, tmp_path, titles="title")
    assert [path.name for path in served.folder.parent.iterdir() if path.is_dir()] == ["1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: expected"),
        ({"k": 1001}, "k: expected at most largest_k, 1000; got 1001"),
        ({"titles": "name"}, r"titles: expected a column .*'title'\]; got 'name'"),
        ({"backend": "cuda"}, "backend: expected one of gpu, faiss, reference, auto; got 'cuda'"),
        ({"name": "a/b"}, "name: expected the name of a model, got 'a/b'"),
        ({"name": ".."}, "name: expected the name of a model, got '..'"),
        ({"name": ""}, "name: expected the name of a model"),
    ],
)
def test_what_is_refused(
    index_path: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_search(index_path, tmp_path / "repository", **options)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    "options", [{"most_rows": 0}, {"delay": -1}, {"instances": 0}, {"device": "tpu"}]
)
def test_how_it_is_run_is_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        Serving(**options)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        export_search(tmp_path / "none", tmp_path / "repository")


@pytest.mark.parametrize("text", ["", "{}", '{"magic": "another", "format_version": 1}'])
def test_a_folder_that_is_no_version(tmp_path: Path, text: str) -> None:
    if text:
        (tmp_path / "serving.json").write_text(text)
    with pytest.raises(ValueError, match="expected"):
        ServingSpec.load(tmp_path)


@pytest.mark.parametrize("name", ["k", "exclude", "allow_count", "age", "genres_count"])
def test_a_column_named_as_another_tensor_is(name: str) -> None:
    inputs = [InputSpec("age", "float32"), InputSpec("genres", "int64", None)]
    check_inputs(inputs)
    with pytest.raises(ValueError, match=f"column '{name}': expected a name that no other"):
        check_inputs([*inputs, InputSpec(name, "int64")])


def test_an_export_that_fails_leaves_nothing(index_path: Path, tmp_path: Path) -> None:
    def fail() -> None:
        with new_version(tmp_path, "films", "name: 'films'", module="model"):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert list(tmp_path.iterdir()) == []
    served = export_search(index_path, tmp_path, name="films")
    with pytest.raises(ValueError, match=r"config\.pbtxt"):
        fail()
    assert served.folder.is_dir()
