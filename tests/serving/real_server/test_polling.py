"""A server that looks for new versions itself: a new one is served, and a deleted one no more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("faiss")

from merlin_poeem import save_index
from merlin_poeem.serving import ServedModel, export_search
from tests.index_factories import assert_answers, random_queries
from tests.serving.real_server.test_swap import index_of
from tests.serving.real_server.wire import ask_grpc
from workflows.serving.triton_server import TritonServer, triton_server

INDEXES = {number: index_of(number) for number in (1, 2)}
QUERIES = random_queries(INDEXES[1], 3)
SECONDS = 60


def export(number: int, folder: Path) -> ServedModel:
    """A version, with the index of its number."""
    save_index(INDEXES[number], folder / f"{number}.index")
    return export_search(folder / f"{number}.index", folder / "repository", name="polled", k=20)


@pytest.fixture
def polling(triton: TritonServer, tmp_path: Path) -> Iterator[TritonServer]:
    """A server of its own, of the environment that ``triton`` has found."""
    export(1, tmp_path)
    variables = {"OMP_NUM_THREADS": "1"}
    with triton_server(tmp_path / "repository", variables=variables, poll_seconds=1) as server:
        yield server


def wait_for(server: TritonServer, version: int) -> None:
    """Ask until this version answers; every answer before is whole, and of the other one."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = ask_grpc(server, "polled", {"query_vector": QUERIES})
        assert_answers(INDEXES[int(answer.version)], answer.candidates(), QUERIES, k=20)
        if answer.version == str(version):
            return
        assert time.monotonic() < deadline


def test_what_is_in_the_repository_is_served(polling: TritonServer, tmp_path: Path) -> None:
    wait_for(polling, 1)
    second = export(2, tmp_path)
    wait_for(polling, 2)
    shutil.rmtree(second.folder)
    wait_for(polling, 1)
