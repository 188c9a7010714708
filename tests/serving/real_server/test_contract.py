"""The contract of every backend, through an exported index on a real server, by HTTP and gRPC.

Fewer cases than on the backends themselves: each loads an index, the next version of one model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("faiss")

from merlin_poeem import Candidates, Index, ItemSet, Searcher
from merlin_poeem.serving import ServedModel
from tests.search import test_contract as contract
from tests.serving.real_server.conftest import Serve
from tests.serving.real_server.wire import ASKS, id_lists, options
from workflows.serving.triton_server import TritonServer

test_each_look_changes_the_answer = contract.test_each_look_changes_the_answer
test_only_empty_lists_are_visited = contract.test_only_empty_lists_are_visited


class OnTriton:
    """A Searcher that asks a server, by HTTP and by gRPC in turns."""

    backend = "triton"
    on_device = False

    def __init__(self, index: Index, server: TritonServer, served: ServedModel) -> None:
        self.index = index
        self._server, self._served = server, served
        self._asks = cycle(ASKS.values())

    def search(
        self,
        queries: np.ndarray,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        n_rows = len(queries)
        tensors = {"query_vector": queries}
        tensors |= options(n_rows, k=k, n_probes=n_probes, refine=refine)
        for name, given in (("exclude", exclude), ("allow", allow)):
            if given is not None:
                rows = [given.item_ids] * n_rows if isinstance(given, ItemSet) else given
                tensors |= id_lists(name, list(rows))
        ask = next(self._asks)
        answer = ask(self._server, self._served.name, tensors)
        assert answer.version == str(self._served.version)
        return answer.candidates()


@pytest.fixture
def open_index(triton: TritonServer, serve: Serve) -> Callable[[Index], Searcher]:
    return lambda index: OnTriton(index, triton, serve(index, "contract", largest_k=2000))


@pytest.mark.parametrize(
    ("metric", "scales", "rotation", "filters"),
    [
        ("inner_product", True, "stretched", "exclude"),
        ("cosine", False, True, "allow"),
        ("l2", False, True, "both"),
    ],
)
def test_answers(open_index, metric, scales, rotation, filters) -> None:
    contract.test_answers(open_index, metric, scales, 8, rotation, filters)


def test_answers_of_a_second_look(open_index) -> None:
    contract.test_answers_of_a_second_look(open_index, "cosine", True, "float16", "both")


def test_duplicate_codes_come_by_id(open_index) -> None:
    contract.test_duplicate_codes_come_by_id(open_index, "inner_product", True)


def test_one_item(open_index) -> None:
    contract.test_one_item(open_index, "cosine")


def test_empty_index(open_index) -> None:
    contract.test_empty_index(open_index, "inner_product")
