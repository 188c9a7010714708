"""A searcher is of the process that opened it: CUDA does not survive a fork."""

import os
import signal
from typing import Any

import pytest

from merlin_poeem import Index
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import random_queries

REFUSED, OTHERWISE = 10, 11
MESSAGE = r"expected process \d+, which opened it, got \d+: a GPU cannot be used after a fork"


def calls(searcher: GpuSearcher) -> dict[str, Any]:
    """Everything that would use the GPU."""
    queries = random_queries(searcher.index, 3)
    captured = searcher.capture(3, 5)
    hiding = searcher.without(searcher.index.item_ids[:2])
    return {
        "search": lambda: searcher.search(queries, k=5),
        "search_padded": lambda: searcher.search_padded(queries, k=5),
        "capture": lambda: searcher.capture(3, 5),
        "replay": captured.replay,
        "search without": lambda: hiding.search(queries, k=5),
    }


def test_another_process_is_refused(searcher: GpuSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
    all_calls = calls(searcher)
    for call in all_calls.values():
        call()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for call in all_calls.values():
        with pytest.raises(RuntimeError, match=MESSAGE.replace(r"got \d+", "got -1")):
            call()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_at_once(searcher: GpuSearcher, index: Index) -> None:
    queries = random_queries(index, 3)
    searcher.search(queries, k=5)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # a child that waits ends by a signal
        try:
            searcher.search(queries, k=5)
        except RuntimeError:
            os._exit(REFUSED)
        finally:
            os._exit(OTHERWISE)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == REFUSED
