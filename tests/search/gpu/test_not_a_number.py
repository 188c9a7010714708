"""A card's NaN ranks above every number: what once read memory that is not the index's.

Guards keep it out. A query that is not finite is made zeros; the choice of lists takes a NaN for
the lowest score, and reads no list that there is not. Without them a search of such a query reads
far outside of its arrays.
"""

import subprocess
import sys

import numpy as np
import pytest

from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.index_factories import random_index, random_queries
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.kept_files import REPOSITORY

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

QUERIES = (
    "const bool has_answer = within(queries, dim, largest_value);",
    "const bool has_answer = true;",
)
LISTS = ("if (isnan(score)) return minus_infinity();", "")
NUMBERS = ("list = min(list, static_cast<unsigned>(n_lists) - 1);", "")
N_PROBES = (18, 20, 22)


def without(guards: list[tuple[str, str]], file: str, text: str) -> str:
    """The kernels of ``file`` with these guards taken out."""
    for old, new in guards:
        if file == ("queries.cu" if old == QUERIES[0] else "lists.cu"):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
    return text


def search_with_infinities(guards: list[tuple[str, str]]) -> list[int]:
    """Results of a query with two infinities, for each number of probes."""
    index = random_index(n_items=2000, n_lists=24)
    queries = random_queries(index, 3)
    queries[1, [2, 7]] = np.inf, -np.inf
    device = EmulatedDevice(edit=lambda file, text: without(guards, file, text))
    searcher, counts = GpuSearcher(index, device), []
    for n_probes in N_PROBES:
        found = searcher.search_padded(queries, k=5, n_probes=n_probes)
        assert found.counts[[0, 2]].tolist() == [5, 5]
        counts.append(int(found.counts[1]))
    return counts


def test_any_guard_is_enough() -> None:
    assert search_with_infinities([]) == [0, 0, 0]
    assert search_with_infinities([LISTS, NUMBERS]) == [0, 0, 0]
    assert len(search_with_infinities([QUERIES, NUMBERS])) == 3
    assert len(search_with_infinities([QUERIES, LISTS])) == 3


def test_a_check_by_the_largest_value_would_miss_nan() -> None:
    """A card's fmaxf drops a NaN: the query would count as one that has an answer."""
    size = "fabsf(query[i]) <= largest"

    def edit(file: str, text: str) -> str:
        assert file != "queries.cu" or text.count(size) == 1
        return text.replace(size, "fmaxf(0.0f, fabsf(query[i])) <= largest")

    # Not of residuals: the part of a list in the score would be NaN, which no result has.
    index = random_index(encodes_residual=False)
    queries = random_queries(index, 2)
    queries[1, 3] = np.nan
    right, wrong = (GpuSearcher(index, EmulatedDevice(edit=each)) for each in (None, edit))
    assert right.search_padded(queries, k=5).counts.tolist() == [5, 0]
    assert wrong.search_padded(queries, k=5).counts.tolist() != [5, 0]


def test_subnormal_values_count_as_zero() -> None:
    """As the kernels are compiled; the definition would make unit vectors of such queries."""
    index = random_index("cosine")
    tiny = np.full((2, index.dim), 1e-40, np.float32)
    found = GpuSearcher(index, EmulatedDevice()).search(tiny, k=5)
    zeros = GpuSearcher(index, EmulatedDevice()).search(np.zeros_like(tiny), k=5)
    np.testing.assert_array_equal(found.item_ids, zeros.item_ids)
    assert not found.scores.any()


def test_without_guards_a_search_reads_what_is_not_there() -> None:
    code = (
        "from tests.search.gpu.test_not_a_number import *\n"
        "search_with_infinities([QUERIES, LISTS, NUMBERS])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert ended.returncode < 0, ended.stderr.decode()
