"""From features to candidates on a real server, without TensorFlow or Merlin there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
pytest.importorskip("tritonclient.grpc")

from merlin_poeem import Index, save_index
from merlin_poeem.blocks import export_index, export_retrieval, query_vectors
from tests.blocks import toy
from tests.index_factories import assert_answers
from tests.serving.real_server.wire import ASKS, Ask, Refused, id_lists, options
from workflows.serving.triton_server import TritonServer

N_ROWS = 5
USERS = toy.USERS.head(N_ROWS)
REQUEST = {"user_id": USERS["user_id"].to_numpy(np.int64).reshape(-1, 1)}


@pytest.fixture(scope="module")
def model() -> Any:
    return toy.trained_model(toy.v2)


@pytest.fixture(scope="module")
def index(model: Any) -> Index:
    return export_index(model, toy.ITEMS, n_probes=2)


@pytest.fixture(scope="module", params=["whole", "apart"])
def name(
    request: pytest.FixtureRequest,
    model: Any,
    index: Index,
    triton: TritonServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Of the model served: one of tower and search, or the ensemble of both."""
    path: Path = tmp_path_factory.mktemp("index") / "index"
    save_index(index, path)
    name, apart = f"tower-{request.param}", request.param == "apart"
    export_retrieval(model, path, triton.repository, name=name, k=4, runtime="onnx", apart=apart)
    triton.load(name)
    yield name
    triton.unload(name)


@pytest.mark.parametrize("protocol", ASKS)
def test_features_in_candidates_out(
    triton: TritonServer, model: Any, index: Index, name: str, protocol: str
) -> None:
    ask, queries = ASKS[protocol], query_vectors(model, USERS)[1]
    found = ask(triton, name, REQUEST).candidates()
    assert_answers(index, found, queries, k=4)
    seen = [found[i][1] for i in range(N_ROWS)]
    asked = {**REQUEST, **options(N_ROWS, k=9, n_probes=4), **id_lists("exclude", seen)}
    others = ask(triton, name, asked).candidates()
    assert_answers(index, others, queries, k=9, n_probes=4, exclude=seen)


@pytest.mark.parametrize("protocol", ASKS)
def test_what_is_wrong_is_told(triton: TritonServer, name: str, protocol: str) -> None:
    ask: Ask = ASKS[protocol]
    # Of a tensor that is missing Triton tells itself where the tower is apart, and not clearly.
    missing = (options(N_ROWS, k=2), "user_id|ensemble")
    unknown = ({"user_id": np.full((N_ROWS, 1), 10**6)}, "user_id.*expected values")
    for wrong, text in (missing, unknown):
        with pytest.raises(Refused, match=text) as caught:
            ask(triton, name, wrong)
        assert caught.value.status in ("400", "StatusCode.INVALID_ARGUMENT")
