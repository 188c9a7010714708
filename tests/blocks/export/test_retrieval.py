"""A model exported for Triton, opened as the server does, against the model itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from merlin_poeem import load_index, open_searcher, save_index
from merlin_poeem.blocks import (
    StaleIndexError,
    export_index,
    export_retrieval,
    query_vectors,
    save_query_tower,
)
from merlin_poeem.serving import Serving
from merlin_poeem.serving.retrieval import Retrieval
from merlin_poeem.serving.tower_model import TowerRows
from tests.blocks import toy
from tests.serving.served import answered, candidates_of

N_ROWS = 5


@pytest.fixture(scope="module")
def model():
    return toy.trained_model(toy.v2)


@pytest.fixture(scope="module")
def index_path(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "items.index"
    titles = toy.ITEMS.assign(title=[f"film {i}" for i in range(len(toy.ITEMS))])
    save_index(export_index(model, titles, item_table=["title"], n_probes=2), path)
    return path


def request(n_rows: int = N_ROWS) -> dict[str, np.ndarray]:
    """The tower's columns of the first users."""
    return {"user_id": toy.USERS["user_id"].to_numpy(np.int64)[:n_rows].reshape(-1, 1)}


def expected(model, index_path: Path, k: int):
    index = load_index(index_path)
    queries = query_vectors(model, toy.USERS.head(N_ROWS))[1]
    return open_searcher(index, "reference").search(queries, k=k)


@pytest.mark.parametrize("runtime", ["onnx", "tensorflow"])
def test_features_in_candidates_out(model, index_path: Path, tmp_path: Path, runtime: str) -> None:
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
    served = export_retrieval(
        model, index_path, tmp_path / "models", k=4, titles="title", runtime=runtime
    )
    package = {"onnx": "onnxruntime>=1.17", "tensorflow": "tensorflow>=2.12"}[runtime]
    assert served.requires == ["merlin-poeem[cpu]", package]
    assert package in (served.folder.parent / "INSTALL.txt").read_text()
    (answer,) = Retrieval(served.folder).answer([request()])
    arrays = answered(answer)
    found, wanted = candidates_of(arrays), expected(model, index_path, 4)
    np.testing.assert_array_equal(found.item_ids, wanted.item_ids)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    assert arrays["titles"][0, 0].decode().startswith("film ")


def test_apart_they_find_the_same(model, index_path: Path, tmp_path: Path) -> None:
    three = Serving(instances=3)
    served = export_retrieval(model, index_path, tmp_path, k=4, apart=True, serving=three)
    of_tower, of_search = (
        (tmp_path / f"retrieval_{part}" / "config.pbtxt").read_text()
        for part in ("tower", "search")
    )
    assert "count: 3" in of_tower
    assert "count: 1" in of_search
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "retrieval",
        "retrieval_search",
        "retrieval_tower",
    ]
    assert 'platform: "ensemble"' in (tmp_path / "retrieval" / "config.pbtxt").read_text()
    rows = TowerRows(tmp_path / "retrieval_tower" / "1")
    one, wrong, two = rows.answer([request(1), {}, request()])
    assert "user_id: expected it in the request" in str(wrong)
    np.testing.assert_allclose(one, two[:1], atol=1e-6)
    (answer,) = Retrieval(tmp_path / "retrieval_search" / "1").answer([{"query_vector": two}])
    found, wanted = candidates_of(answered(answer)), expected(model, index_path, 4)
    np.testing.assert_array_equal(found.item_ids, wanted.item_ids)
    assert served.name == "retrieval"
    again = export_retrieval(model, index_path, tmp_path, k=4, apart=True, serving=three)
    assert (tmp_path / "retrieval_search" / "2").is_dir()
    assert not (tmp_path / "retrieval_tower" / "2").exists()
    assert again.requires == served.requires


def test_apart_another_tower_is_refused(index_path: Path, tmp_path: Path, model) -> None:
    export_retrieval(model, index_path, tmp_path, apart=True)
    other = toy.trained_model(toy.v1)
    save_index(export_index(other, toy.ITEMS), tmp_path / "other.index")
    with pytest.raises(
        ValueError, match="expected the query tower and the workflow that are served"
    ):
        export_retrieval(other, tmp_path / "other.index", tmp_path, apart=True)
    assert not (tmp_path / "retrieval_search" / "2").exists()


def test_an_index_of_another_model_is_refused(index_path: Path, tmp_path: Path) -> None:
    other = toy.trained_model(toy.v1)
    with pytest.raises(StaleIndexError):
        export_retrieval(other, index_path, tmp_path / "models")
    save_query_tower(other, tmp_path / "tower")
    with pytest.raises(StaleIndexError):
        export_retrieval(tmp_path / "tower", index_path, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_saved_tower_and_how_it_is_run(model, index_path: Path, tmp_path: Path) -> None:
    save_query_tower(model, tmp_path / "tower")
    serving = Serving(most_rows=8, instances=3)
    served = export_retrieval(
        tmp_path / "tower", index_path, tmp_path / "models", serving=serving, name="films"
    )
    config = (served.folder.parent / "config.pbtxt").read_text()
    assert "max_batch_size: 8\n" in config
    assert "count: 3" in config
    assert 'name: "user_id" data_type: TYPE_INT64 dims: [ 1 ]' in config


def test_what_a_request_says_of_a_feature_is_checked(
    model, index_path: Path, tmp_path: Path
) -> None:
    retrieval = Retrieval(export_retrieval(model, index_path, tmp_path).folder)
    too_large = {"user_id": np.array([[10**6]])}
    right, wrong, floats = retrieval.answer(
        [request(), too_large, {"user_id": np.ones((2, 1), np.float32)}]
    )
    assert len(candidates_of(answered(right))) == N_ROWS
    assert "column 'user_id': expected values from 0 to" in str(wrong)
    assert "user_id: expected int64, got float32" in str(floats)
