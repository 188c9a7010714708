"""What who runs a server sees: health, metrics, and a process of the model that is killed."""

from __future__ import annotations

import os
import signal
import time
from itertools import product
from pathlib import Path
from urllib.error import HTTPError

import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("faiss")

from merlin_poeem.serving.metrics import TOLD_EVERY
from tests.index_factories import assert_answers, random_index, random_queries
from tests.serving.real_server.conftest import Serve
from tests.serving.real_server.wire import ASKS, Ask, Refused, options
from workflows.serving.triton_server import TritonServer

INDEX = random_index()
QUERIES = random_queries(INDEX, 3)


def is_ready(triton: TritonServer, model: str) -> bool:
    try:
        triton.get(f"v2/models/{model}/ready")
    except HTTPError:
        return False
    return True


def test_health(triton: TritonServer, serve: Serve) -> None:
    triton.get("v2/health/live")
    assert not is_ready(triton, "healthy")
    serve(INDEX, "healthy")
    assert is_ready(triton, "healthy")


def test_metrics(triton: TritonServer, serve: Serve) -> None:
    before = time.time()
    serve(INDEX, "measured", k=5)
    wanted = {'model="measured"', 'version="1"'}

    def value(name: str) -> float:
        (found,) = (v for k, v in triton.metrics(name).items() if set(k.split(",")) >= wanted)
        return found

    assert value("poeem_index_items") == len(INDEX)
    assert before - 1 <= value("poeem_index_created_seconds") <= time.time()
    for ask in ASKS.values():
        ask(triton, "measured", {"query_vector": QUERIES})
        ask(triton, "measured", {"query_vector": QUERIES, **options(3, k=len(INDEX))})
        with pytest.raises(Refused):
            ask(triton, "measured", {"query_vector": QUERIES, **options(3, k=0)})
    time.sleep(TOLD_EVERY)
    ask(triton, "measured", {"query_vector": QUERIES})
    assert value("poeem_requests_total") == 5
    assert value("poeem_rows_total") == 15
    assert value("poeem_short_rows_total") == 6
    assert value("poeem_refused_requests_total") == 2
    assert value("poeem_sampled_rows_total") >= 1
    assert 0 < value("poeem_sampled_items_scanned_total") <= 15 * len(INDEX)
    # Triton counts what the model refuses among the successes.
    assert value("nv_inference_request_success") == 7


def test_a_killed_process_comes_back_with_a_touched_model(
    triton: TritonServer, serve: Serve
) -> None:
    # From 24.06 on Triton starts no new process itself (issue 8604 of triton-inference-server), and
    # it loads again what has changed alone.
    serve(INDEX, "beside", k=5)
    program = serve(INDEX, "killed", k=5).folder / "model.py"
    for _ in range(2):
        (pid,) = stubs_of(triton, "killed")
        os.kill(pid, signal.SIGKILL)
        for ask in ASKS.values():
            with pytest.raises(Refused, match=r"killed.* is not healthy"):
                ask(triton, "killed", {"query_vector": QUERIES})
            check_answer(triton, "beside", ask)
        program.touch()
        triton.load("killed")
        for name, ask in product(("killed", "beside"), ASKS.values()):
            check_answer(triton, name, ask)


def check_answer(triton: TritonServer, model: str, ask: Ask) -> None:
    answer = ask(triton, model, {"query_vector": QUERIES})
    assert_answers(INDEX, answer.candidates(), QUERIES, k=5)


def stubs_of(triton: TritonServer, model: str) -> list[int]:
    """The processes of the server that run a model, those that have ended not among them."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            command = (process / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == triton.process.pid and f"/{model}/" in command:
            found.append(int(process.name))
    return found
