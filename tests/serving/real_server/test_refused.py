"""Requests that are wrong get an error that names what is; those beside them are answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("faiss")

from merlin_poeem.serving import Serving
from tests.index_factories import assert_answers, random_index, random_queries
from tests.serving.real_server.conftest import Serve
from tests.serving.real_server.test_options import table_of
from tests.serving.real_server.wire import ASKS, Answer, Ask, Refused, Tensors, options, post
from workflows.serving.triton_server import TritonServer

INDEX = random_index()
QUERIES = random_queries(INDEX, 2)
IDS = INDEX.item_ids[:6].reshape(2, 3)
MOST_ROWS = 64


def counts(*values: int) -> np.ndarray:
    return np.array(values, np.int32).reshape(-1, 1)


# What is changed of a right request of two rows, and what the error says.
WRONG: dict[str, tuple[Tensors, str]] = {
    "dtype of the vectors": ({"query_vector": QUERIES.astype(np.float64)}, "query_vector.*FP32"),
    "dtype of the ids": ({"exclude": IDS.astype(np.int32)}, "exclude.*INT64"),
    "dtype of k": ({"k": np.array([[1], [2]])}, "'k'.*INT32"),
    "length of the vectors": ({"query_vector": QUERIES[:, :-1]}, r"query_vector.*\[-1,16\]"),
    "ids that are flat": ({"exclude": IDS[:, 0]}, "exclude"),
    "ids of too few rows": ({"exclude": IDS[:1]}, "batch"),
    "k twice": ({"k": np.ones((2, 2), np.int32)}, "'k'"),
    "an unknown tensor": ({"genres": IDS}, "genres"),
    "counts above the width": ({"exclude": IDS, "exclude_count": counts(3, 4)}, "exclude_count: "
                               "expected counts from 0 to 3.*got 4 in row 1"),
    "counts below 0": ({"allow": IDS, "allow_count": counts(-1, 3)}, "allow_count.*got -1"),
    "counts without ids": ({"allow_count": counts(0, 0)}, "allow_count: expected allow beside it"),
    "k 0": (options(2, k=[5, 0]), "k: expected 1 to 1000, got 0 in row 1"),
    "k too large": (options(2, k=1001), "k: expected 1 to 1000, got 1001"),
    "n_probes 0": (options(2, n_probes=0), "n_probes: expected 1 to 8, got 0"),
    "n_probes above the lists": (options(2, n_probes=[8, 9]), "n_probes.*got 9 in row 1"),
    "refine below 0": (options(2, refine=-1), "refine: expected"),
    "refine without vectors": (options(2, refine=2), "refine: expected 0, as the index holds no"),
}  # fmt: skip
# What JSON cannot say.
WRONG_IN_GRPC: dict[str, tuple[Tensors, str]] = {
    "not a number": ({"query_vector": np.full_like(QUERIES, np.nan)}, "query_vector|queries"),
    "an infinite vector": ({"query_vector": np.full_like(QUERIES, np.inf)}, "query_vector|queries"),
}


@pytest.fixture(scope="module")
def model(serve: Serve) -> str:
    return serve(INDEX, "refusing", k=5, serving=Serving(most_rows=MOST_ROWS, delay=2000)).name


@pytest.fixture(scope="module", autouse=True)
def others_are_answered(triton: TritonServer, model: str) -> Iterator[None]:
    """Two clients whose requests are right, all the while; every one of them is answered."""
    stop, answers = threading.Event(), []
    failures: list[Exception] = []

    def client(ask: Ask) -> None:
        while not stop.is_set():
            try:
                answers.append(ask(triton, model, {"query_vector": QUERIES}))
            except Exception as error:  # told below, in the test's own thread
                failures.append(error)

    threads = [threading.Thread(target=client, args=(ask,)) for ask in ASKS.values()]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    first: Answer = answers[0]
    assert_answers(INDEX, first.candidates(), QUERIES, k=5)
    for answer in answers:
        for name, array in answer.tensors.items():
            np.testing.assert_array_equal(array, first.tensors[name])


def check_refused(triton: TritonServer, model: str, ask: Ask, tensors: Tensors, text: str) -> None:
    with pytest.raises(Refused, match=text) as caught:
        ask(triton, model, tensors)
    assert caught.value.status in ("400", "StatusCode.INVALID_ARGUMENT")


@pytest.mark.parametrize("protocol", ASKS)
@pytest.mark.parametrize("what", WRONG)
def test_wrong(triton: TritonServer, model: str, protocol: str, what: str) -> None:
    changed, text = WRONG[what]
    check_refused(triton, model, ASKS[protocol], {"query_vector": QUERIES, **changed}, text)


@pytest.mark.parametrize("what", WRONG_IN_GRPC)
def test_wrong_in_grpc(triton: TritonServer, model: str, what: str) -> None:
    changed, text = WRONG_IN_GRPC[what]
    check_refused(triton, model, ASKS["grpc"], {"query_vector": QUERIES, **changed}, text)


@pytest.mark.parametrize("protocol", ASKS)
def test_without_what_is_needed(triton: TritonServer, model: str, protocol: str) -> None:
    check_refused(triton, model, ASKS[protocol], options(2, k=3), "query_vector")


@pytest.mark.parametrize("protocol", ASKS)
@pytest.mark.parametrize("n_rows", [0, MOST_ROWS + 1])
def test_no_rows_and_too_many(triton: TritonServer, model: str, protocol: str, n_rows: int) -> None:
    tensors = {"query_vector": random_queries(INDEX, n_rows)}
    check_refused(triton, model, ASKS[protocol], tensors, "batch|size|shape")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"inputs": 3}', b"[]"])
def test_a_body_that_is_no_request(triton: TritonServer, model: str, body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        post(triton, model, body)
    # Triton's own answer: what it can't parse it calls a fault of its own.
    assert caught.value.status in ("400", "500")


@pytest.mark.parametrize("protocol", ASKS)
def test_unknown_ids_are_no_error(triton: TritonServer, model: str, protocol: str) -> None:
    unknown = np.array([[-1, 5], [2**62, 7]])
    answer = ASKS[protocol](triton, model, {"query_vector": QUERIES, "exclude": unknown})
    assert_answers(INDEX, answer.candidates(), QUERIES, k=5)


@pytest.mark.parametrize("protocol", ASKS)
def test_ten_megabytes_of_exclusions(triton: TritonServer, model: str, protocol: str) -> None:
    excluded = np.arange(10 * 2**20 // 8 // 2).reshape(1, -1).repeat(2, axis=0) + 2**41
    excluded[0, :50] = INDEX.item_ids[:50]
    answer = ASKS[protocol](triton, model, {"query_vector": QUERIES, "exclude": excluded})
    assert_answers(INDEX, answer.candidates(), QUERIES, k=5, exclude=list(excluded))


def test_texts_that_are_no_utf8(triton: TritonServer, serve: Serve) -> None:
    keyed = INDEX.with_item_table(table_of(INDEX)).with_item_keys()
    model = serve(keyed, "refusing-keys").name
    wrong: Any = np.array([[b"film-3"], [b"\xff\xfe"]], object)
    tensors = {"query_vector": QUERIES, "exclude": wrong}
    check_refused(triton, model, ASKS["grpc"], tensors, "exclude: expected texts in UTF-8.*row 1")
