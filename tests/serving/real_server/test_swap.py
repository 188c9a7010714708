"""A new version under load: no request fails, none gets an answer of both or an old one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("faiss")

from merlin_poeem import Index
from tests.index_factories import assert_answers, random_index, random_queries
from tests.serving.real_server.conftest import Serve
from tests.serving.real_server.wire import ASKS, Answer
from workflows.serving.triton_server import TritonServer

N_VERSIONS, N_CLIENTS = 3, 4


def index_of(version: int) -> Index:
    """No two versions share an item."""
    index = random_index(seed=version)
    codes = replace(index.item_codes, item_ids=index.item_ids * N_VERSIONS + version)
    return Index.from_codes(index.params, index.quantization, codes)


def test_new_versions_under_load(triton: TritonServer, serve: Serve) -> None:
    indexes = {number: index_of(number) for number in range(1, N_VERSIONS + 1)}
    queries = random_queries(indexes[1], 4)
    model = serve(indexes[1], "swapped", k=30).name
    newest, stop = 1, threading.Event()

    def client(number: int) -> list[tuple[int, Answer]]:
        """The version that was there when each request began, and its answer."""
        ask, found = list(ASKS.values())[number % 2], []
        while not stop.is_set():
            begun = newest
            found.append((begun, ask(triton, model, {"query_vector": queries})))
        return found

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(N_CLIENTS)]
        try:
            for version in range(2, N_VERSIONS + 1):
                time.sleep(0.3)
                assert serve(indexes[version], model, k=30).version == version
                newest = version
            time.sleep(0.3)
        finally:
            stop.set()
        answers = [answer for each in clients for answer in each.result()]
    seen: dict[int, Answer] = {}
    for begun, answer in answers:
        version = int(answer.version)
        assert version >= begun
        first = seen.setdefault(version, answer)
        for name, array in answer.tensors.items():
            np.testing.assert_array_equal(array, first.tensors[name])
    assert sorted(seen) == sorted(indexes)
    for version, answer in seen.items():
        assert_answers(indexes[version], answer.candidates(), queries, k=30)


def test_a_version_that_does_not_load_leaves_the_old_one(
    triton: TritonServer, serve: Serve
) -> None:
    index = index_of(1)
    queries = random_queries(index, 2)
    served = serve(index, "broken", k=5)
    second = served.folder.with_name("2")
    second.mkdir()
    (second / "model.py").write_text((served.folder / "model.py").read_text())
    with pytest.raises(RuntimeError, match="expected a served version"):
        triton.load("broken")
    for ask in ASKS.values():
        answer = ask(triton, "broken", {"query_vector": queries})
        assert answer.version == "1"
        assert_answers(index, answer.candidates(), queries, k=5)
