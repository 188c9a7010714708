"""One contract for every backend of a flat index: what the NumPy definition says, each returns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import FlatIndex, IdLists, ItemSet, open_searcher
from merlin_poeem.evaluate import exact_search
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.stored_vectors import FLAT_DTYPES
from merlin_poeem.search.faiss import flat as faiss_flat
from merlin_poeem.search.searcher import FlatSearcher
from tests.flat_factories import FIRST_ID, assert_flat_answers, flat_queries, random_flat
from tests.search.gpu.emulation.compiler import COMPILER
from tests.search.gpu.openers import FLAT_GPU_OPENERS

OPENERS: dict[str, Callable[[FlatIndex], FlatSearcher]] = {
    "reference": lambda index: open_searcher(index, "reference"),
    "faiss": lambda index: open_searcher(index, "faiss"),
    **FLAT_GPU_OPENERS,
}
# One way of each backend, for tests that draw their sizes.
DRAWN = ("reference", "faiss", *(["gpu"] if COMPILER else []))
FILTERS = {"none": (), "exclude": ("exclude",), "allow": ("allow",), "both": ("exclude", "allow")}


@pytest.fixture(params=OPENERS)
def open_index(request: pytest.FixtureRequest) -> Callable[[FlatIndex], FlatSearcher]:
    """Opens an index with one backend."""
    return OPENERS[request.param]


def check(searcher: FlatSearcher, queries: np.ndarray, **search: Any) -> None:
    got = searcher.search(queries, **search)
    assert_flat_answers(searcher.index, got, queries, **search)


def test_shows_its_backend_and_index(
    open_index: Callable[[FlatIndex], FlatSearcher],
) -> None:
    searcher = open_index(random_flat())
    backend = f"backend={searcher.backend!r}"
    assert repr(searcher) == f"{type(searcher).__name__}({backend}, {searcher.index!r})"


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("dtype", FLAT_DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_answers(
    open_index: Callable[[FlatIndex], FlatSearcher], metric: str, dtype: str, filters: str
) -> None:
    index = random_flat(metric, dtype)
    queries, rng = flat_queries(index), np.random.default_rng(2)
    lists = {
        "exclude": [rng.choice(index.item_ids, n) for n in range(0, 240, 20)],
        "allow": [rng.choice(index.item_ids, n) for n in range(240, 0, -20)],
    }
    sets = {"exclude": ItemSet(index.item_ids[:90]), "allow": ItemSet(index.item_ids[50:])}
    searcher = open_index(index)
    for chosen in (lists, sets, {**lists, "allow": sets["allow"]}):
        asked = {name: chosen[name] for name in FILTERS[filters]}
        for k in (1, 10, 299, 1000):
            check(searcher, queries, k=k, **asked)


@given(n_items=st.integers(0, 40), n_queries=st.integers(0, 5), k=st.integers(1, 60))
def test_any_numbers(n_items: int, n_queries: int, k: int) -> None:
    index = random_flat(n_items=n_items, dim=3)
    for name in DRAWN:
        check(OPENERS[name](index), flat_queries(index, n_queries), k=k)


@pytest.mark.parametrize("metric", METRICS)
def test_answers_are_those_of_exact_search(
    open_index: Callable[[FlatIndex], FlatSearcher], metric: str
) -> None:
    vectors = np.random.default_rng(3).standard_normal((200, 9)).astype(np.float32)
    index = FlatIndex.from_vectors(np.arange(200), vectors, metric=metric)  # type: ignore[arg-type]
    queries = flat_queries(index)
    truth = exact_search(np.arange(200), vectors, queries, k=10, metric=metric)  # type: ignore[arg-type]
    got = open_index(index).search(queries, k=10)
    np.testing.assert_array_equal(got.item_ids, truth.item_ids)
    np.testing.assert_allclose(got.scores, truth.scores, rtol=1e-5, atol=1e-5)


def test_many_ties_at_the_cut_come_by_id(
    open_index: Callable[[FlatIndex], FlatSearcher],
) -> None:
    vectors = np.ones((500, 17), np.float32)
    index = FlatIndex.from_vectors(FIRST_ID + np.random.default_rng(0).permutation(500), vectors)
    got = open_index(index).search(flat_queries(index, 3), k=30)
    assert got.item_ids.tolist() == 3 * index.item_ids[:30].tolist()


@pytest.mark.parametrize("far", [1e6, 1e8])
def test_distances_far_from_zero(
    open_index: Callable[[FlatIndex], FlatSearcher], far: float
) -> None:
    vectors = np.random.default_rng(4).standard_normal((200, 5)) * far / 1e5 + far
    vectors = vectors.astype(np.float32)
    for dtype in FLAT_DTYPES:
        index = FlatIndex.from_vectors(range(200), vectors, metric="l2", store_vectors=dtype)  # type: ignore[arg-type]
        found = open_index(index).search(vectors, k=1)
        assert found.item_ids.tolist() == list(range(200))


def test_what_is_refused(open_index: Callable[[FlatIndex], FlatSearcher]) -> None:
    searcher = open_index(random_flat())
    queries = flat_queries(searcher.index)
    with pytest.raises(ValueError, match="n_probes: expected None, as a flat index has no lists"):
        searcher.search(queries, k=3, n_probes=1)
    with pytest.raises(ValueError, match="refine: expected 0 or None"):
        searcher.search(queries, k=3, refine=4)
    assert len(searcher.search(queries, k=3, refine=0)) == len(queries)
    with pytest.raises(ValueError, match=r"queries: expected shape \(n, 13\), got \(12, 4\)"):
        searcher.search(queries[:, :4].copy(), k=3)
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        searcher.search(queries, k=0)
    with pytest.raises(ValueError, match="exclude: expected 12 lists, one a query; got 1"):
        searcher.search(queries, k=3, exclude=IdLists.from_rows([[1]]))


class Unkind:
    """A Faiss index: its scores are off by what rounding allows, its ties come by falling row."""

    def __init__(self, index: FlatIndex, flat: Any) -> None:
        self._index, self._flat = index, flat

    def search(
        self, queries: np.ndarray, width: int, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        n_items = len(self._index)
        scores, rows = self._flat.search(queries, n_items, params=params)
        errors = np.random.default_rng(0).uniform(-1e-7, 1e-7, n_items)[np.maximum(rows, 0)]
        lengths = np.linalg.norm(queries, axis=1, keepdims=True) * self._index.largest_length
        scores = np.where(rows < 0, scores, scores + errors * lengths).astype(np.float32)
        falling = scores if self._index.metric == "l2" else -scores
        order = np.lexsort((-rows, np.where(rows < 0, np.inf, falling)))[:, :width]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_faiss_asks_again_until_it_is_certain(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_flat, "MARGIN", 0)
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((10, 17)).astype(np.float32), 50, axis=0)
    index = FlatIndex.from_vectors(rng.permutation(500), vectors, metric=metric)  # type: ignore[arg-type]
    queries = flat_queries(index, 40)
    exclude = [index.item_ids[i::40] for i in range(40)]
    for unkind in (False, True):
        searcher = open_searcher(index, "faiss")
        if unkind:
            searcher._flat = Unkind(index, searcher._flat)  # type: ignore[attr-defined]
        for k in (5, 30, 60):
            check(searcher, queries, k=k)
            check(searcher, queries, k=k, exclude=exclude)
