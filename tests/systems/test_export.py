"""Exported Triton repositories, run as Triton would run them, beside the reference."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from merlin.systems.triton import conversions, utils

from merlin_poeem import Candidates, IdLists, Index, load_index, save_index
from merlin_poeem.blocks import export_index, query_vectors
from merlin_poeem.blocks.export.query_tower import (
    OUTPUT,
    Feature,
    load_query_tower,
    save_query_tower,
)
from merlin_poeem.blocks.model.freshness import StaleIndexError
from merlin_poeem.blocks.model.towers import query_tower_of
from merlin_poeem.search import reference
from merlin_poeem.systems import Repository, export, export_ensemble, export_saved_model
from tests.systems.served import flat
from tests.systems.toy import (
    DIM,
    ITEMS,
    N_ITEMS,
    N_USERS,
    USERS,
    features,
    trained_model,
)
from tests.systems.triton import Server, TritonModelException

K = 5
SEEN = [np.arange(user % 7 * 20) for user in range(N_USERS)]


@pytest.fixture(scope="module")
def model():
    return trained_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def vectors(model) -> np.ndarray:
    return query_vectors(model, USERS)[1]


@pytest.fixture(scope="module")
def index_path(model, folder: Path) -> Path:
    index = export_index(model, ITEMS, n_probes=2, store_vectors="float16")
    save_index(index, folder / "items.index")
    return folder / "items.index"


@pytest.fixture(scope="module")
def index(index_path: Path) -> Index:
    return load_index(index_path)


@pytest.fixture(scope="module")
def tower_path(model, folder: Path) -> Path:
    save_query_tower(model, folder / "tower")
    return folder / "tower"


def exclusions(lists: Any, n: int) -> dict[str, np.ndarray]:
    values, offsets = flat(lists, n)
    return {"seen__values": values, "seen__offsets": offsets}


@pytest.fixture(scope="module")
def repository(tower_path: Path, index_path: Path, folder: Path) -> Repository:
    """Exported with an index that was deleted right after."""
    shutil.copytree(index_path, folder / "gone")
    shutil.copytree(tower_path, folder / "gone-tower")
    repository = export_ensemble(
        folder / "gone-tower",
        folder / "gone",
        folder / "repository",
        k=K,
        exclude="seen",
        n_probes_column="n_probes",
    )
    shutil.rmtree(folder / "gone")
    shutil.rmtree(folder / "gone-tower")
    return repository


@pytest.fixture(scope="module")
def server(repository: Repository):
    server = Server(repository.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", server.utils)
        for module in (conversions, utils):
            patch.setattr(module, "pb_utils", server.utils)
        yield server.load()


def answer_of(tensors: dict[str, np.ndarray]) -> Candidates:
    counts = tensors["candidate_count"]
    found = Candidates(
        counts, tensors["candidate_scores__values"], tensors["candidate_ids__values"]
    )
    for name in ("candidate_scores__offsets", "candidate_ids__offsets"):
        np.testing.assert_array_equal(tensors[name], found.offsets)
    return found


def assert_same(got: Candidates, truth: Candidates) -> None:
    np.testing.assert_array_equal(got.counts, truth.counts)
    np.testing.assert_array_equal(got.item_ids, truth.item_ids)
    np.testing.assert_allclose(got.scores, truth.scores, rtol=1e-5, atol=1e-5)


def test_configurations(repository, server):
    assert server.configs == repository.configs
    dims = {
        name: {entry.name: list(entry.dims) for entry in [*config.input, *config.output]}
        for name, config in server.configs.items()
    }
    tower = {"user_id": [-1], "age": [-1], "home": [-1, 2]}
    tower |= {"genres__values": [-1], "genres__offsets": [-1]}
    assert dims["0_predicttensorflowtriton"] == {**tower, OUTPUT: [-1, DIM]}
    assert dims[repository.model_name] == {
        **tower,
        **{name: [-1] for name in ("seen__values", "seen__offsets", "n_probes")},
        **{f"candidate_{x}__{y}": [-1] for x in ("ids", "scores") for y in ("values", "offsets")},
        "candidate_count": [-1],
    }
    backends = {name: config.backend for name, config in server.configs.items()}
    assert backends == {"0_predicttensorflowtriton": "tensorflow", "executor_model": "python"}


@pytest.mark.parametrize("n", [N_USERS, 1, 0])
def test_the_ensemble_answers_as_the_reference(server, repository, index, vectors, n):
    given = {**features(n), **exclusions(SEEN[:n], n), "n_probes": np.arange(n) % 4 + 1}
    got = answer_of(server.infer(repository.model_name, given))
    assert len(got) == n
    for i in range(n):
        row = {"n_probes": i % 4 + 1, "exclude": [SEEN[i]]}
        truth = reference.search(index, vectors[[i]], k=K, **row)
        np.testing.assert_array_equal(got[i][1], truth.item_ids)
        np.testing.assert_allclose(got[i][0], truth.scores, rtol=1e-5, atol=1e-5)


def test_a_request_that_chooses_nothing(server, repository, index, vectors):
    given = {**features(), **exclusions(None, N_USERS), "n_probes": np.empty(0, np.int64)}
    got = answer_of(server.infer(repository.model_name, given))
    assert_same(got, reference.search(index, vectors, k=K))


def test_rows_without_candidates(server, repository):
    everything = [np.arange(N_ITEMS), np.arange(0)]
    given = {**features(2), **exclusions(everything, 2), "n_probes": np.array([4])}
    assert answer_of(server.infer(repository.model_name, given)).counts.tolist() == [0, K]


def test_the_backend_is_visible(server):
    step = server.python_model.ensemble.graph.output_node.op
    assert step.searcher.backend == "faiss"
    assert Path(step.index_path).is_relative_to(server.repository)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_probes": np.array([5])}, "at most n_lists = 4, got 5"),
        ({"n_probes": np.array([1, 2, 3])}, "n_probes: expected 2 values, one a row"),
        (exclusions([[1]], 1), "exclude: expected 2 lists, one a query; got 1"),
        ({"age": np.full(2, np.nan, np.float32)}, "column 'query_vector': expected finite values"),
    ],
)
def test_errors_reach_the_client(server, repository, change, message):
    given = {**features(2), **exclusions(None, 2), "n_probes": np.array([1])}
    with pytest.raises(TritonModelException, match=message):
        server.infer(repository.model_name, {**given, **change})


def test_the_executor_names_a_tensor_that_is_missing(server, repository):
    given = {**features(2), "n_probes": np.array([1])}
    run = server.models[repository.model_name]
    with pytest.raises(TritonModelException, match="Column seen__values not found"):
        run(given)


def test_one_saved_model(model, index_path, index, vectors, tmp_path):
    assert index.refine == 4  # an export with vectors looks again, in the ensemble above too
    repository = export_saved_model(model, index_path, tmp_path / "repository")
    server = Server(repository.path).load()
    assert server.configs == repository.configs
    np.testing.assert_array_equal(query_vectors(model, USERS)[1], vectors)
    lists = IdLists.from_rows(SEEN)
    for k, refine in ((500, 0), (500, 1), (5, 4)):
        given = {
            **features(),
            "k": np.array([k], np.int32),
            "n_probes": np.array([3], np.int32),
            "refine": np.array([refine], np.int32),
            "exclude__values": lists.values,
            "exclude__offsets": lists.offsets.astype(np.int32),
        }
        found = server.infer(repository.model_name, given)
        truth = reference.search(index, vectors, k=k, n_probes=3, refine=refine, exclude=SEEN)
        scores, item_ids = truth.padded(found["scores"].shape[1], fill_id=2**63 - 1)
        assert k == 5 or (truth.counts < 200).any()
        np.testing.assert_array_equal(found["counts"], truth.counts)
        np.testing.assert_array_equal(found["identifiers"], item_ids)
        np.testing.assert_allclose(found["scores"], scores, rtol=1e-5, atol=1e-5)


def test_a_model_is_exported_as_its_saved_tower(model, index_path, tmp_path):
    repository = export_ensemble(model, index_path, tmp_path / "repository", name="near", k=3)
    assert set(repository.configs) == {"0_predicttensorflowtriton", "near"}
    tower = repository.path / "0_predicttensorflowtriton" / "1" / "model.savedmodel"
    assert load_query_tower(tower).features[0] == Feature("age", "float32", 0)


def test_stale_indexes(model, tower_path, index, index_path, tmp_path):
    other = Index.from_codes(index.params, index.quantization, index.item_codes)
    for info, error in (
        ({"fingerprints": {"query_tower": "0" * 16, "item_tower": "0" * 16}}, StaleIndexError),
        ({}, ValueError),
    ):
        other.info = info
        save_index(other, tmp_path / "index")
        with pytest.raises(error, match="index: expected"):
            export_ensemble(tower_path, tmp_path / "index", tmp_path / "repository")
    weight = query_tower_of(model).trainable_variables[0]
    trained = weight.numpy()
    weight.assign(trained + 1)
    for exporter in (export_ensemble, export_saved_model):
        with pytest.raises(StaleIndexError, match="expected one exported from the query tower"):
            exporter(model, index_path, tmp_path / "repository")
    weight.assign(trained)
    assert not (tmp_path / "repository").exists()


def test_a_repository_is_never_written_over(model, tower_path, index_path, tmp_path):
    (tmp_path / "executor_model").mkdir()
    with pytest.raises(ValueError, match="expected a free name or an empty directory"):
        export_ensemble(tower_path, index_path, tmp_path)
    with pytest.raises(ValueError, match="expected a free name or an empty directory"):
        export_saved_model(model, index_path, tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match="got a link to nowhere"):
        export_saved_model(model, index_path, tmp_path / "link")


def test_an_export_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    save_index(export_index(model, ITEMS), tmp_path / "index")

    def fail(config: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(export.text_format, "MessageToString", fail)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(model, tmp_path / "index", tmp_path / "repository")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_an_index_with_item_keys_is_refused(
    model: Any, index: Index, tower_path: Path, folder: Path
) -> None:
    ids = index.item_ids
    table = pd.DataFrame({"item_id": ids, "sku": [f"s{i}" for i in ids]})
    save_index(index.with_item_table(table).with_item_keys("sku"), folder / "keyed.index")
    with pytest.raises(ValueError, match=r"sends no texts.*save index\.without_item_keys\(\)"):
        export_ensemble(tower_path, folder / "keyed.index", folder / "never", k=K)
    with pytest.raises(ValueError, match=r"as graphs give.*take index\.without_item_keys\(\)"):
        export_saved_model(model, folder / "keyed.index", folder / "never")
    assert not (folder / "never").exists()
