"""The contract of every backend, through a version that was exported and opened again.

Left out are device arrays, no queries, which Triton refuses itself, and how codes are scored.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings

from merlin_poeem import Index, Searcher
from tests.search import test_contract as contract
from tests.serving.served import ServedSearcher

test_item_set_is_its_ids_for_every_query = contract.test_item_set_is_its_ids_for_every_query
test_sets_that_leave_all_or_nothing = contract.test_sets_that_leave_all_or_nothing
test_duplicate_codes_come_by_id = contract.test_duplicate_codes_come_by_id
test_one_item = contract.test_one_item
test_empty_index = contract.test_empty_index
test_only_empty_lists_are_visited = contract.test_only_empty_lists_are_visited
test_default_n_probes_is_the_index_s = contract.test_default_n_probes_is_the_index_s
test_each_look_changes_the_answer = contract.test_each_look_changes_the_answer
test_a_second_look_at_few_items = contract.test_a_second_look_at_few_items


@pytest.fixture
def open_index() -> Callable[[Index], Searcher]:
    return ServedSearcher


@pytest.mark.parametrize(
    ("metric", "scales", "filters"),
    [
        ("inner_product", True, "exclude"),
        ("cosine", True, "allow"),
        ("cosine", False, "none"),
        ("l2", False, "both"),
    ],
)
def test_answers(open_index, metric, scales, filters) -> None:
    rotation = "stretched" if scales else True
    contract.test_answers(open_index, metric, scales, 8, rotation, filters)


@pytest.mark.parametrize(
    ("metric", "scales", "dtype", "filters"),
    [("cosine", True, "float16", "both"), ("l2", False, "int8", "none")],
)
def test_answers_of_a_second_look(open_index, metric, scales, dtype, filters) -> None:
    contract.test_answers_of_a_second_look(open_index, metric, scales, dtype, filters)


@settings(max_examples=20)
@given(contract.searches())
def test_any_search(case) -> None:
    assume(len(case[1]))
    contract.check_case(ServedSearcher, *case)
