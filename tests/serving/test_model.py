"""The class that Triton loads, on a stand-in of what Triton gives it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem import Index
from merlin_poeem.serving import metrics
from merlin_poeem.serving.inputs import Column
from merlin_poeem.serving.metrics import SAMPLED
from merlin_poeem.serving.model import TritonPythonModel
from merlin_poeem.serving.queries import VectorsAsked
from merlin_poeem.serving.responses import arrays_of
from tests.index_factories import assert_answers, random_index, random_queries
from tests.serving.served import candidates_of, exported, request_of
from tests.serving.triton import InferenceRequest, make_backend

ALL = ["item_ids", "scores", "counts"]


@pytest.fixture
def index() -> Index:
    return random_index()


@pytest.fixture
def version(index: Index, tmp_path: Path) -> Path:
    return exported(index, tmp_path, k=5, largest_k=50)


@pytest.fixture
def model(version: Path, monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    return loaded(version, monkeypatch)


def loaded(version: Path, monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", make_backend())
    model = TritonPythonModel()
    model.initialize({
        "model_name": "search",
        "model_version": version.name,
        "model_repository": str(version.parent),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    })  # fmt: skip
    return model


def values(model: TritonPythonModel) -> dict[str, float]:
    return {name: metric.value for name, metric in model._metrics._metrics.items()}


def test_responses(index: Index, model: TritonPythonModel) -> None:
    queries = random_queries(index, 3)
    request = request_of(queries, k=4, n_probes=8)
    wrong = InferenceRequest(request_of(queries, k=51), ALL)
    right = InferenceRequest(request, ALL)
    few = InferenceRequest(request, ["item_ids"])
    whole, refused, ids = model.execute([right, wrong, few])
    assert_answers(index, candidates_of(whole.arrays), queries, k=4, n_probes=8)
    assert refused.error.code == 3  # what is the client's fault
    assert refused.error.message == "k: expected 1 to 50, got 51 in row 0"
    assert list(ids.arrays) == ["item_ids"]


def test_metrics(index: Index, model: TritonPythonModel, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = random_queries(index, 2)
    few = request_of(queries, k=5, n_probes=8, allow=[index.item_ids[:2].tolist()] * 2)
    wrong = request_of(queries, k=99)
    assert values(model)["poeem_index_items"] == len(index)
    assert values(model)["poeem_index_created_seconds"] > 1.7e9
    monkeypatch.setattr(metrics, "TOLD_EVERY", 1000.0)
    both = [InferenceRequest(one, ALL) for one in (few, wrong)]
    for _ in range(SAMPLED - 1):
        model.execute(both)
    assert values(model)["poeem_requests_total"] == 1  # the first, which nobody was told before
    monkeypatch.setattr(metrics, "TOLD_EVERY", 0.0)
    model.execute(both)
    told = values(model)
    assert told["poeem_requests_total"] == told["poeem_refused_requests_total"] == SAMPLED
    assert told["poeem_rows_total"] == told["poeem_short_rows_total"] == 2 * SAMPLED
    assert told["poeem_sampled_rows_total"] == 1
    assert told["poeem_sampled_items_scanned_total"] == len(index)
    model.finalize()
    assert values(model) == {}


def test_what_is_no_fault_of_a_request(
    index: Index, model: TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(model._retrieval.searcher, "search", fail)
    (response,) = model.execute([InferenceRequest(request_of(random_queries(index, 1)), ALL)])
    assert (response.error.code, response.error.message) == (1, "MemoryError: no room")


def test_a_damaged_version_is_not_loaded(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = next(path for path in (version / "index").iterdir() if "codes" in path.name)
    codes.write_bytes(codes.read_bytes()[:-1])
    with pytest.raises(ValueError, match=codes.name):
        loaded(version, monkeypatch)
    shutil.rmtree(version / "index")
    with pytest.raises(FileNotFoundError):
        loaded(version, monkeypatch)


@pytest.mark.parametrize("on_device", [True, False])
def test_vectors_on_a_gpu_stay_there_where_the_search_is(cupy: Any, on_device: bool) -> None:
    queries = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    k = cupy.asarray(np.ones((2, 1), np.int32))
    arrays = arrays_of(InferenceRequest({"query_vector": cupy.asarray(queries), "k": k}, ALL))
    assert isinstance(arrays["k"], np.ndarray)
    column = Column(arrays["query_vector"])
    vectors = VectorsAsked(4, on_device=on_device).vectors({"query_vector": column})
    assert isinstance(vectors, cupy.ndarray) is on_device
    np.testing.assert_array_equal(cupy.asnumpy(vectors) if on_device else vectors, queries)
