"""A user's features in, items out: tower and search in one model, and as an ensemble of two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("onnxruntime")
pytest.importorskip("tritonclient.grpc")

from merlin_poeem import Index, load_index, save_index
from merlin_poeem.blocks import (
    QuantizedTwoTowerModel,
    export_index,
    export_retrieval,
    query_vectors,
)
from tests.index_factories import assert_answers
from tests.serving.real_server.wire import ASKS, Refused, Tensors, id_lists, options
from tests.systems.toy import ITEMS, USERS, trained_model
from workflows.serving.triton_server import TritonServer

N_ROWS = 6


@pytest.fixture(scope="module")
def model() -> QuantizedTwoTowerModel:
    return trained_model()


@pytest.fixture(scope="module")
def index_path(model: QuantizedTwoTowerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "items.index"
    save_index(export_index(model, ITEMS, n_probes=2), path)
    return path


@pytest.fixture(scope="module")
def index(index_path: Path) -> Index:
    return load_index(index_path)


@pytest.fixture(scope="module", params=["whole", "apart"])
def name(
    request: pytest.FixtureRequest,
    triton: TritonServer,
    model: QuantizedTwoTowerModel,
    index_path: Path,
) -> Iterator[str]:
    name = request.param
    is_apart = name == "apart"
    served = export_retrieval(
        model, index_path, triton.repository, name=name, k=5, runtime="onnx", apart=is_apart
    )
    names = [name, *([f"{name}_tower", f"{name}_search"] if is_apart else [])]
    for one in reversed(names):
        triton.load(one)
    yield served.name
    for one in names:
        triton.unload(one)


def features(n_rows: int) -> Tensors:
    """Of the first users, as requests hold them."""
    users = USERS.head(n_rows)
    return {
        "user_id": users["user_id"].to_numpy(np.int64).reshape(-1, 1),
        "age": users["age"].to_numpy(np.float32).reshape(-1, 1),
        "home": np.array(users["home"].tolist(), np.int64),
        **id_lists("genres", list(users["genres"])),
    }


@pytest.mark.parametrize("protocol", ASKS)
def test_candidates(
    triton: TritonServer, name: str, model: QuantizedTwoTowerModel, index: Index, protocol: str
) -> None:
    queries = query_vectors(model, USERS.head(N_ROWS))[1]
    exclude = [index.item_ids[:row].tolist() for row in range(N_ROWS)]
    tensors = {**features(N_ROWS), **id_lists("exclude", exclude), **options(N_ROWS, n_probes=4)}
    found = ASKS[protocol](triton, name, tensors).candidates()
    assert_answers(index, found, queries, k=5, n_probes=4, exclude=exclude)


@pytest.mark.parametrize("protocol", ASKS)
def test_what_is_wrong_is_named(triton: TritonServer, name: str, protocol: str) -> None:
    ask, right = ASKS[protocol], features(2)
    without = {key: value for key, value in right.items() if key != "age"}
    with pytest.raises(Refused, match="age: expected it in the request"):
        ask(triton, name, without)
    with pytest.raises(Refused, match=r"user_id.*expected values from 0 to"):
        ask(triton, name, {**right, "user_id": np.full((2, 1), 10**6)})
    with pytest.raises(Refused, match="genres_count: expected counts from 0 to"):
        ask(triton, name, {**right, "genres_count": np.full((2, 1), 99, np.int32)})
    with pytest.raises(Refused, match="k: expected 1 to 1000, got 0"):
        ask(triton, name, {**right, **options(2, k=0)})
