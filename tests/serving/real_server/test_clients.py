"""Eight clients at once, each request with options of its own: every answer is the right one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("faiss")

from merlin_poeem.serving import Serving
from tests.index_factories import assert_answers, random_id_lists, random_index, random_queries
from tests.serving.real_server.conftest import Serve
from tests.serving.real_server.wire import ASKS, id_lists, options
from workflows.serving.triton_server import TritonServer

N_CLIENTS, N_REQUESTS = 8, 12
INDEX = random_index(vectors="float16")


def random_search(seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Queries, 1 or 32, and what is asked for them."""
    rng = np.random.default_rng(seed)
    queries = random_queries(INDEX, int(rng.choice([1, 32])), seed)
    asked: dict[str, Any] = {"k": int(rng.integers(1, 40))}
    if rng.random() < 0.5:
        asked |= {"n_probes": int(rng.integers(1, 9)), "refine": int(rng.choice([0, 2]))}
    for name in ("exclude", "allow"):
        if rng.random() < 0.5:
            asked[name] = random_id_lists(INDEX, len(queries), 200, seed)
    return queries, asked


def test_every_answer_is_right(triton: TritonServer, serve: Serve) -> None:
    # Waiting a little, requests come together.
    model = serve(INDEX, "clients", serving=Serving(most_rows=128, delay=3000)).name

    def client(number: int) -> list[Any]:
        found = []
        for i in range(N_REQUESTS):
            queries, asked = random_search(number * N_REQUESTS + i)
            lists = {name: asked[name] for name in ("exclude", "allow") if name in asked}
            numbers = {name: asked[name] for name in asked if name not in lists}
            tensors = {"query_vector": queries, **options(len(queries), **numbers)}
            for name, rows in lists.items():
                tensors |= id_lists(name, rows)
            ask = ASKS["http" if i % 2 else "grpc"]
            found.append((queries, asked, ask(triton, model, tensors)))
        return found

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        of_clients = list(pool.map(client, range(N_CLIENTS)))
    counted = triton.statistics(model)
    assert counted["inference_stats"]["success"]["count"] == N_CLIENTS * N_REQUESTS
    assert counted["execution_count"] < N_CLIENTS * N_REQUESTS
    for of_client in of_clients:
        for queries, asked, answer in of_client:
            assert_answers(INDEX, answer.candidates(), queries, **asked)
