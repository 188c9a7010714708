"""One contract for every backend: what the NumPy definition says, each must return."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import (
    Candidates,
    IdLists,
    Index,
    ItemCodes,
    ItemSet,
    IVFPQParams,
    Searcher,
    open_searcher,
)
from merlin_poeem.arrays import LARGEST_VALUE, normalize
from merlin_poeem.evaluate import exact_search
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.quantization.stored_vectors import VECTOR_DTYPES, VectorDtype
from merlin_poeem.search import reference, second_look
from merlin_poeem.search.gpu.index_shape import MAX_PQ_BITS
from tests.index_factories import (
    FIRST_ID,
    Rotation,
    assert_answers,
    random_id_lists,
    random_index,
    random_item_set,
    random_quantization,
    random_queries,
    rotations_of,
)
from tests.search.gpu.openers import GPU_OPENERS

# A new backend is one more line: how to open an index with it.
OPENERS: dict[str, Callable[[Index], Searcher]] = {
    "reference": lambda index: open_searcher(index, "reference"),
    "faiss": lambda index: open_searcher(index, "faiss"),
    **GPU_OPENERS,
}
# Metrics, and whether items have scales: under l2 they never have.
SCALED = [("inner_product", True), ("inner_product", False), ("cosine", True), ("cosine", False)]
KINDS = [*SCALED, ("l2", False)]
TURNED = [(*kind, each) for kind in KINDS for each in rotations_of(kind[0], scales=kind[1])]
STRETCHED = [kind for kind in KINDS if (*kind, "stretched") in TURNED]
TURNED_METRICS = [
    (metric, each) for metric in METRICS for each in rotations_of(metric, scales=metric != "l2")
]
FILTERS = {"none": (), "exclude": ("exclude",), "allow": ("allow",), "both": ("exclude", "allow")}
# Whether exclude and allow are lists, one a query, or one set for all.
FORMS = [("lists", "set"), ("set", "lists"), ("set", "set"), ("set", None), (None, "set")]


@pytest.fixture(params=OPENERS)
def open_index(request: pytest.FixtureRequest) -> Callable[[Index], Searcher]:
    """Opens an index with one backend."""
    return OPENERS[request.param]


def check(searcher: Searcher, queries: np.ndarray, **search: object) -> Candidates:
    """The answer, once it is shown to be the right one."""
    got = searcher.search(queries, **search)
    assert_answers(searcher.index, got, queries, **search)
    return got


def test_shows_its_backend_and_index(open_index: Callable[[Index], Searcher]) -> None:
    searcher = open_index(random_index())
    backend = f"backend={searcher.backend!r}"
    assert repr(searcher) == f"{type(searcher).__name__}({backend}, {searcher.index!r})"


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("pq_bits", [4, 8])
@pytest.mark.parametrize(("metric", "scales", "rotation"), TURNED)
def test_answers(
    open_index: Callable[[Index], Searcher],
    metric: str,
    scales: bool,
    pq_bits: int,
    rotation: Rotation,
    filters: str,
) -> None:
    index = random_index(metric, pq_bits=pq_bits, rotation=rotation, scales=scales)
    queries = random_queries(index, 12)
    lists = {
        "exclude": random_id_lists(index, 12, 150, seed=2),
        "allow": random_id_lists(index, 12, 300, seed=3),
    }
    chosen = {name: lists[name] for name in FILTERS[filters]}
    searcher = open_index(index)
    for n_probes in (None, 1, 8):
        for k in (1, 10, 1000):
            check(searcher, queries, k=k, n_probes=n_probes, **chosen)


@pytest.mark.parametrize("forms", FORMS, ids=lambda forms: f"{forms[0]}-{forms[1]}")
@pytest.mark.parametrize(("metric", "rotation"), TURNED_METRICS)
def test_answers_with_item_sets(
    open_index: Callable[[Index], Searcher],
    metric: str,
    rotation: Rotation,
    forms: tuple[str | None, str | None],
) -> None:
    index = random_index(metric, rotation=rotation)
    queries = random_queries(index, 12)
    exclude = {
        "lists": random_id_lists(index, 12, 150, seed=2),
        "set": random_item_set(index, 150, seed=4),
        None: None,
    }[forms[0]]
    allow = {
        "lists": random_id_lists(index, 12, 300, seed=3),
        "set": random_item_set(index, 250, seed=5),
        None: None,
    }[forms[1]]
    searcher = open_index(index)
    for n_probes in (None, 1, 8):
        for k in (1, 10, 1000):
            check(searcher, queries, k=k, n_probes=n_probes, exclude=exclude, allow=allow)


@pytest.mark.parametrize("filters", ["none", "both"])
@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
@pytest.mark.parametrize(("metric", "scales"), KINDS)
def test_answers_of_a_second_look(
    open_index: Callable[[Index], Searcher],
    metric: str,
    scales: bool,
    dtype: VectorDtype,
    filters: str,
) -> None:
    rotation = dtype == "float16"
    index = random_index(metric, rotation=rotation, scales=scales, vectors=dtype)
    queries = random_queries(index, 12)
    lists = {
        "exclude": random_id_lists(index, 12, 150, seed=2),
        "allow": random_id_lists(index, 12, 300, seed=3),
    }
    chosen = {name: lists[name] for name in FILTERS[filters]}
    searcher = open_index(index)
    for k, n_probes, refine in ((1, None, 1), (10, None, 4), (10, 8, 4), (7, 8, 30), (500, 8, 2)):
        check(searcher, queries, k=k, n_probes=n_probes, refine=refine, **chosen)


@pytest.mark.parametrize("dtype", VECTOR_DTYPES)
@pytest.mark.parametrize(("metric", "scales"), STRETCHED)
def test_a_second_look_in_a_stretched_space(
    open_index: Callable[[Index], Searcher], metric: str, scales: bool, dtype: VectorDtype
) -> None:
    index = random_index(metric, rotation="stretched", scales=scales, vectors=dtype)
    queries = random_queries(index, 12)
    got = check(open_index(index), queries, k=10, n_probes=8, refine=4)
    # It compares the raw vectors.
    vectors = index.vectors_of(got.item_ids).reshape(12, 10, index.dim)
    if metric == "cosine":
        queries = normalize(queries)
    expected = np.einsum("nkd,nd->nk", vectors, queries).ravel()
    np.testing.assert_allclose(got.scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("metric", METRICS)
def test_equal_vectors_of_unequal_codes_come_by_id(
    open_index: Callable[[Index], Searcher], metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A few queries at a time, where the host looks.
    monkeypatch.setattr(second_look, "BLOCK_BYTES", 1000)
    index = random_index(metric, n_items=300)
    three = np.random.default_rng(5).standard_normal((3, index.dim)).astype(np.float32)
    index = index.with_vectors(index.item_ids, three[np.arange(300) % 3], "int8")
    check(open_index(index), random_queries(index, 12), k=10, n_probes=8, refine=4)


def test_each_look_changes_the_answer(open_index: Callable[[Index], Searcher]) -> None:
    index = random_index(vectors="float16")
    queries = random_queries(index, 12)
    searcher = open_index(index.with_refine(2))
    asked = [searcher.search(queries, k=10, refine=refine) for refine in (None, 0, 1, 2, 4)]
    default, *named = [found.item_ids.tolist() for found in asked]
    assert default == named[2]
    assert len(set(map(tuple, named))) == 4
    # One more candidate than results never loses an item to the codes: scores never fall.
    assert (asked[4].scores >= asked[3].scores).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_second_look_at_few_items(open_index: Callable[[Index], Searcher], metric: str) -> None:
    for n_items in (0, 1):
        index = random_index(metric, n_items=n_items, vectors="float16")
        searcher, queries = open_index(index), random_queries(index, 3)
        got = check(searcher, queries, k=5, n_probes=8, refine=4)
        assert got.counts.tolist() == [n_items] * 3
        got = check(searcher, queries, k=5, n_probes=8, refine=4, allow=[[], [1], []])
        assert got.counts.tolist() == [0] * 3
        assert len(check(searcher, random_queries(index, 0), k=5, refine=4)) == 0


def test_a_second_look_at_no_vectors_is_an_error(
    open_index: Callable[[Index], Searcher],
) -> None:
    searcher = open_index(random_index())
    with pytest.raises(ValueError, match="refine: expected 0, as the index holds no vectors"):
        searcher.search(random_queries(searcher.index, 2), k=3, refine=2)
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="refine: expected"):
            searcher.search(random_queries(searcher.index, 2), k=3, refine=wrong)


@pytest.mark.parametrize("metric", METRICS)
def test_item_set_is_its_ids_for_every_query(
    open_index: Callable[[Index], Searcher], metric: str
) -> None:
    # Stated without ItemSet.row, by which the definition knows a set.
    index = random_index(metric)
    queries, searcher = random_queries(index, 12), open_index(index)
    item_set = random_item_set(index, 200)
    for name in ("exclude", "allow"):
        as_set = searcher.search(queries, k=400, n_probes=8, **{name: item_set})
        as_lists = searcher.search(queries, k=400, n_probes=8, **{name: [item_set.item_ids] * 12})
        np.testing.assert_array_equal(as_set.counts, as_lists.counts)
        np.testing.assert_array_equal(as_set.item_ids, as_lists.item_ids)
        held = np.isin(index.item_ids, item_set.item_ids).sum()
        left = held if name == "allow" else len(index) - held
        assert as_set.counts.tolist() == [left] * 12


@pytest.mark.parametrize("metric", METRICS)
def test_sets_that_leave_all_or_nothing(
    open_index: Callable[[Index], Searcher], metric: str
) -> None:
    index = random_index(metric)
    queries, searcher = random_queries(index, 5), open_index(index)
    plain = searcher.search(queries, k=10)
    nothing, everything, unknown = ItemSet([]), ItemSet(index.item_ids), ItemSet([5, -1])
    for harmless in ({"exclude": nothing}, {"exclude": unknown}, {"allow": everything}):
        got = check(searcher, queries, k=10, **harmless)
        np.testing.assert_array_equal(got.item_ids, plain.item_ids)
    for fatal in (
        {"allow": nothing},
        {"allow": unknown},
        {"exclude": everything},
        {"exclude": everything, "allow": everything},
        {"exclude": everything, "allow": [index.item_ids] * 5},
        {"exclude": [index.item_ids] * 5, "allow": everything},
        {"exclude": [[]] * 5, "allow": nothing},
    ):
        assert check(searcher, queries, k=10, **fatal).counts.tolist() == [0] * 5


@pytest.mark.parametrize("metric", METRICS)
def test_item_set_of_an_empty_index(open_index: Callable[[Index], Searcher], metric: str) -> None:
    index = random_index(metric, n_items=0)
    search = {"exclude": ItemSet([1]), "allow": ItemSet([1, 2])}
    got = check(open_index(index), random_queries(index, 3), k=5, **search)
    assert got.counts.tolist() == [0] * 3
    assert len(check(open_index(index), random_queries(index, 0), k=5, **search)) == 0


def test_every_parameter_changes_the_answer() -> None:
    # Otherwise a backend that ignored one would pass the test above.
    index = random_index("inner_product", rotation=True)
    queries = random_queries(index, 12)
    plain = reference.search(index, queries, k=10)
    variants = [
        reference.search(index, queries, k=9),
        reference.search(index, queries, k=10, n_probes=1),
        reference.search(index, queries, k=10, exclude=random_id_lists(index, 12, 150)),
        reference.search(index, queries, k=10, allow=random_id_lists(index, 12, 300)),
        reference.search(index, queries, k=10, exclude=random_item_set(index, 150)),
        reference.search(index, queries, k=10, allow=random_item_set(index, 250)),
        *(
            reference.search(random_index(metric, rotation=rotation), queries, k=10)
            for metric, rotation in (("cosine", True), ("l2", True), ("inner_product", False))
        ),
        reference.search(random_index(pq_bits=4, rotation=True), queries, k=10),
        reference.search(random_index(rotation=True, encodes_residual=False), queries, k=10),
        reference.search(random_index(rotation=True, scales=False), queries, k=10),
        reference.search(with_scale_range(index, 0.1, 10), queries, k=10),
        reference.search(index.without_list_lengths(), queries, k=10, n_probes=3),
    ]
    for variant in variants:
        assert variant.item_ids.tolist() != plain.item_ids.tolist()


def with_scale_range(index: Index, low: float, high: float) -> Index:
    scale_range = np.array([low, high], np.float32)
    quantization = replace(index.quantization, scale_range=scale_range)
    return Index.from_codes(index.params, quantization, index.item_codes)


@pytest.mark.parametrize(("metric", "scales"), KINDS)
@pytest.mark.parametrize("pq_bits", [1, 6, 12])
def test_other_code_widths(
    open_index: Callable[[Index], Searcher], metric: str, scales: bool, pq_bits: int
) -> None:
    index = random_index(metric, pq_bits=pq_bits, pq_dim=3, scales=scales)
    if pq_bits > MAX_PQ_BITS and open_index in GPU_OPENERS.values():
        with pytest.raises(ValueError, match="pq_bits: expected at most 8 on the GPU, got 12"):
            open_index(index)
        return
    check(open_index(index), random_queries(index, 8), k=20)


@pytest.mark.parametrize(("metric", "scales"), KINDS)
@pytest.mark.parametrize("rotation", [False, True])
def test_codes_of_the_vectors_themselves(
    open_index: Callable[[Index], Searcher], metric: str, scales: bool, rotation: bool
) -> None:
    index = random_index(metric, encodes_residual=False, rotation=rotation, scales=scales)
    check(open_index(index), random_queries(index, 8), k=20)


@pytest.mark.parametrize("metric", METRICS)
def test_queries_fill_several_shares_and_threads(
    open_index: Callable[[Index], Searcher], metric: str
) -> None:
    index = random_index(metric, n_items=150)
    queries = random_queries(index, 150)
    lists, item_set = random_id_lists(index, 150, 40), random_item_set(index, 60)
    searcher = open_index(index)
    check(searcher, queries, k=5, exclude=lists)
    check(searcher, queries, k=5, exclude=lists, allow=item_set)
    check(searcher, queries, k=5, exclude=item_set, allow=lists)


@pytest.mark.parametrize(("metric", "scales"), KINDS)
def test_duplicate_codes_come_by_id(
    open_index: Callable[[Index], Searcher], metric: str, scales: bool
) -> None:
    index = random_index(metric, n_items=1200, n_repeated=1190, scales=scales)
    searcher = open_index(index)
    for k in (1, 7, 100, 1199):
        check(searcher, random_queries(index, 6), k=k, n_probes=8)


@pytest.mark.parametrize(("metric", "scales"), KINDS)
def test_items_all_alike(
    open_index: Callable[[Index], Searcher], metric: str, scales: bool
) -> None:
    quantization = random_quantization(np.random.default_rng(0), n_lists=2, scales=scales)
    params = IVFPQParams(n_lists=2, pq_dim=4, metric=metric)
    ids = np.random.default_rng(1).permutation(700) - 300
    alike = np.full(700, 9, np.uint8) if scales else None
    codes = ItemCodes(ids, np.ones(700, np.int32), np.full((700, 4), 7, np.uint8), alike)
    searcher = open_index(Index.from_codes(params, quantization, codes))
    got = check(searcher, random_queries(searcher.index, 3), k=10, n_probes=2)
    np.testing.assert_array_equal(got.item_ids.reshape(3, 10), [np.arange(-300, -290)] * 3)


@pytest.mark.parametrize("metric", METRICS)
def test_lists_of_equal_score_are_taken_by_number(
    open_index: Callable[[Index], Searcher], metric: str
) -> None:
    index = random_index(metric)
    # The zero query scores every list 0, and every item too, but under l2.
    queries = np.zeros((2, index.dim), np.float32)
    check(open_index(index), queries, k=10, n_probes=2)


@pytest.mark.parametrize("metric", METRICS)
def test_far_from_the_origin(open_index: Callable[[Index], Searcher], metric: str) -> None:
    index = random_index(metric)
    centroids = index.quantization.coarse_centroids + np.float32(30)
    moved = replace(index.quantization, coarse_centroids=centroids)
    index = Index.from_codes(index.params, moved, index.item_codes)
    check(open_index(index), random_queries(index, 8) + np.float32(30), k=20)


@pytest.mark.parametrize("metric", METRICS)
def test_queries_of_the_largest_values(
    open_index: Callable[[Index], Searcher], metric: str
) -> None:
    index = random_index(metric, rotation=True)
    queries = random_queries(index, 12)
    largest = np.float32(LARGEST_VALUE) * (queries / np.abs(queries).max())
    searcher = open_index(index)
    # All lists: of queries so far away float32 cannot tell which one is the nearest.
    with np.errstate(over="raise"):
        got = check(searcher, largest, k=10, n_probes=8)
    assert np.isfinite(got.scores).all()
    assert (got.counts == 10).all()
    beyond = queries.copy()
    beyond[[7, 9], 3] = -3e38, 2e15
    if metric == "cosine":
        check(searcher, beyond, k=10, n_probes=8)
        return
    message = r"queries: expected values of at most 1e\+15 .*got -3e\+38, first in row 7$"
    with pytest.raises(ValueError, match=message):
        searcher.search(beyond, k=10)


@pytest.mark.skipif(find_spec("faiss") is None, reason="needs Faiss, which trains the index")
@pytest.mark.parametrize("metric", METRICS)
def test_items_of_the_largest_values(open_index: Callable[[Index], Searcher], metric: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.uniform(-1, 1, (300, 16)).astype(np.float32)
    vectors[0, 0] = 1
    largest, params = (
        vectors * np.float32(LARGEST_VALUE),
        IVFPQParams(n_lists=4, pq_dim=4, pq_bits=4, metric=metric),
    )
    ids = np.arange(300)
    index = Index.from_vectors(params, fit(params, largest), ids, largest)
    got = check(open_index(index), vectors[:20], k=10, n_probes=4)
    assert np.isfinite(got.scores).all()
    assert np.isin(np.arange(20), got.item_ids.reshape(20, 10)).all() or metric != "cosine"
    if metric == "cosine":
        return
    largest[5, 2] = 3e38
    for refused in (
        lambda: fit(params, largest),
        lambda: Index.from_vectors(params, index.quantization, ids, largest),
        lambda: index.extend(ids + 300, largest),
    ):
        with pytest.raises(ValueError, match=r"at most 1e\+15 .*got 3e\+38, first in row 5$"):
            refused()


@pytest.mark.parametrize("metric", METRICS)
def test_one_item(open_index: Callable[[Index], Searcher], metric: str) -> None:
    index = random_index(metric, n_items=1)
    searcher = open_index(index)
    assert check(searcher, random_queries(index, 3), k=5, n_probes=8).counts.tolist() == [1] * 3
    without = [index.item_ids] * 3
    got = check(searcher, random_queries(index, 3), k=5, n_probes=8, exclude=without)
    assert got.counts.tolist() == [0] * 3


@pytest.mark.parametrize("metric", METRICS)
def test_empty_index(open_index: Callable[[Index], Searcher], metric: str) -> None:
    index = random_index(metric, n_items=0)
    queries = random_queries(index, 3)
    searcher = open_index(index)
    assert check(searcher, queries, k=5).counts.tolist() == [0] * 3
    got = check(searcher, queries, k=5, exclude=[[1], [], [2]], allow=[[1], [2], []])
    assert got.counts.tolist() == [0] * 3


def test_only_empty_lists_are_visited(open_index: Callable[[Index], Searcher]) -> None:
    index = random_index(n_lists=2, filled_lists=1)
    towards = index.quantization.coarse_centroids[1:] - index.quantization.coarse_centroids[:1]
    assert check(open_index(index), towards, k=5, n_probes=1).counts.tolist() == [0]


def test_no_queries(open_index: Callable[[Index], Searcher]) -> None:
    index = random_index()
    searcher, queries = open_index(index), random_queries(index, 0)
    assert len(check(searcher, queries, k=5)) == 0
    assert len(check(searcher, queries, k=5, exclude=[], allow=[])) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_vectors_made_from_codewords(open_index: Callable[[Index], Searcher], metric: str) -> None:
    # Codes known beforehand: encoding must find them, and a search of all lists must equal scoring
    # every reconstruction.
    rng = np.random.default_rng(5)
    quantization = random_quantization(rng, pq_bits=4, rotation=True, spread=8)
    list_ids = rng.integers(0, 8, 200).astype(np.int32)
    codes = rng.integers(0, 16, (200, 4)).astype(np.uint8)
    vectors = coding.decode(quantization, list_ids, codes)
    found_lists, found_codes = coding.encode(quantization, vectors)
    np.testing.assert_array_equal(found_lists, list_ids)
    np.testing.assert_array_equal(found_codes, codes)
    params = IVFPQParams(n_lists=8, pq_dim=4, pq_bits=4, metric=metric)
    ids = rng.permutation(200) + FIRST_ID
    index = Index.from_codes(params, quantization, ItemCodes(ids, list_ids, codes))
    queries = random_queries(index, 10)
    got = check(open_index(index), queries, k=30, n_probes=8)
    exact = exact_search(ids, index.decode(ids), queries, k=30, metric=metric)
    scale = np.abs(exact.scores).max()
    np.testing.assert_allclose(got.scores, exact.scores, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
@pytest.mark.parametrize("rotation", [True, "stretched"])
@pytest.mark.parametrize("encodes_residual", [True, False])
def test_scores_are_of_what_scales_make_of_the_codes(
    open_index: Callable[[Index], Searcher],
    metric: str,
    rotation: Rotation,
    encodes_residual: bool,
) -> None:
    # By cosine too: s · x̂ is as long as the unit vector x is along it, and is not divided by.
    index = random_index(metric, rotation=rotation, encodes_residual=encodes_residual)
    queries = random_queries(index, 10)
    got = check(open_index(index), queries, k=30, n_probes=8)
    if metric == "cosine":
        queries = normalize(queries)
    exact = exact_search(index.item_ids, index.decode(index.item_ids), queries, k=30)
    np.testing.assert_allclose(got.scores, exact.scores, rtol=0, atol=1e-5 * exact.scores.max())


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_items_of_scale_zero_score_zero(
    open_index: Callable[[Index], Searcher], metric: str
) -> None:
    index = random_index(metric, n_items=60)
    nothing = replace(index.item_codes, scales=np.zeros(60, np.uint8))
    index = Index.from_codes(index.params, index.quantization, nothing)
    got = check(open_index(index), random_queries(index, 4), k=10, n_probes=8)
    assert got.counts.tolist() == [10] * 4
    assert not got.scores.any()


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("has_lengths", [True, False])
def test_lists_are_chosen_with_and_without_their_lengths(
    open_index: Callable[[Index], Searcher], scales: bool, has_lengths: bool
) -> None:
    index = random_index(n_items=900, spread=0.5, scales=scales, n_lists=16)
    if not has_lengths:
        index = index.without_list_lengths()
    searcher, queries = open_index(index), random_queries(index, 40)
    for n_probes in (1, 4):
        check(searcher, queries, k=20, n_probes=n_probes)


def test_default_n_probes_is_the_index_s(open_index: Callable[[Index], Searcher]) -> None:
    index = random_index(n_probes=2)
    queries = random_queries(index, 5)
    default = open_index(index).search(queries, k=400)
    named = open_index(index).search(queries, k=400, n_probes=2)
    other = open_index(index.with_n_probes(5)).search(queries, k=400)
    np.testing.assert_array_equal(default.item_ids, named.item_ids)
    assert (other.counts > default.counts).all()


def test_id_lists_of_every_form(open_index: Callable[[Index], Searcher]) -> None:
    index = random_index()
    queries, searcher = random_queries(index, 3), open_index(index)
    rows = [index.item_ids[:50].tolist(), None, tuple(index.item_ids[50:90].tolist())]
    from_rows = searcher.search(queries, k=300, exclude=rows)
    from_lists = searcher.search(queries, k=300, exclude=IdLists.from_rows(rows))
    np.testing.assert_array_equal(from_rows.item_ids, from_lists.item_ids)


FLAT: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "array": np.array,
    "int32": lambda ids: np.array([each % 2**31 for each in ids], np.int32),
    "objects": lambda ids: np.array(ids, object),
}


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("name", ["exclude", "allow"])
def test_flat_collections_are_sets_for_all_queries(
    open_index: Callable[[Index], Searcher], name: str, kind: str
) -> None:
    index = random_index()
    queries, searcher = random_queries(index, 3), open_index(index)
    # As many ids as queries too, where they could pass for a list each.
    for n_ids in (3, 100):
        flat = FLAT[kind](index.item_ids[:n_ids].tolist())
        got = searcher.search(queries, k=300, n_probes=8, **{name: flat})
        expected = searcher.search(queries, k=300, n_probes=8, **{name: ItemSet(flat)})
        np.testing.assert_array_equal(got.counts, expected.counts)
        np.testing.assert_array_equal(got.item_ids, expected.item_ids)


def test_empty_collections_whose_type_tells(open_index: Callable[[Index], Searcher]) -> None:
    index = random_index()
    queries, searcher = random_queries(index, 3), open_index(index)
    plain = searcher.search(queries, k=5)
    for empty in (set(), range(0), np.array([], np.int64)):
        got = searcher.search(queries, k=5, exclude=empty)
        np.testing.assert_array_equal(got.item_ids, plain.item_ids)
        assert searcher.search(queries, k=5, allow=empty).counts.tolist() == [0] * 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"queries": np.full((2, 16), np.nan, "f4")},
            ValueError,
            "NaN or infinity, first in row 0",
        ),
        (
            {"queries": np.full((2, 16), np.inf, "f4")},
            ValueError,
            "NaN or infinity, first in row 0",
        ),
        ({"queries": np.zeros((2, 15), "f4")}, ValueError, r"\(n, 16\), got \(2, 15\)"),
        ({"queries": np.zeros(16, "f4")}, ValueError, "two dimensions"),
        ({"queries": np.zeros((2, 16))}, TypeError, "expected float32, got float64"),
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"k": -3}, ValueError, "k: expected at least 1, got -3"),
        ({"k": 2.0}, TypeError, "k: expected an integer"),
        ({"n_probes": 0}, ValueError, "n_probes: expected at least 1"),
        ({"n_probes": 9}, ValueError, "at most n_lists = 8, got 9"),
        ({"exclude": [[1]]}, ValueError, "exclude: expected 2 lists, one a query; got 1"),
        ({"allow": [[1]] * 3}, ValueError, "allow: expected 2 lists, one a query; got 3"),
        ({"exclude": [[1.5], []]}, TypeError, "expected integers, got"),
        ({"exclude": []}, ValueError, r"exclude: expected 2 lists, one a query; got 0: ItemSet\("),
        ({"allow": np.array([])}, ValueError, r"allow: expected 2 lists, .*got 0: ItemSet\("),
        ({"allow": [1.5, 2]}, TypeError, r"allow: expected integers, got 1.5 \(float\)"),
        ({"allow": [1, None]}, TypeError, "allow: expected integers, got None"),
        ({"exclude": np.uint64([2**63])}, ValueError, "exclude: expected values that fit in int64"),
        ({"exclude": 5}, TypeError, "exclude: expected an ItemSet, item ids for all .*; got int"),
        ({"allow": np.array(5)}, TypeError, "allow: expected an ItemSet, .*; got numpy.ndarray"),
        ({"exclude": "seen"}, TypeError, "exclude: expected an ItemSet, .*; got str"),
        ({"exclude": iter([1])}, TypeError, "exclude: expected an ItemSet, .*; got list_iterator"),
        ({"allow": [[2**63], []]}, ValueError, "fit in int64"),
    ],
)
def test_bad_input(
    open_index: Callable[[Index], Searcher],
    change: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    arguments = {"queries": np.zeros((2, 16), np.float32), "k": 5, **change}
    searcher = open_index(random_index())
    with pytest.raises(error, match=message):
        searcher.search(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["queries", "exclude", "allow"])
def test_searchers_on_the_host_refuse_device_arrays(
    open_index: Callable[[Index], Searcher], cupy: Any, name: str
) -> None:
    searcher = open_index(random_index())
    if searcher.on_device:
        pytest.skip("on the device")
    given: dict[str, Any] = {"queries": np.zeros((2, 16), np.float32)}
    lists = IdLists(cupy.asarray([0, 1, 1]), cupy.asarray([7]))
    given[name] = cupy.asarray(given["queries"]) if name == "queries" else lists
    with pytest.raises(TypeError, match=f"{name}: expected NumPy, .*got a CuPy array"):
        searcher.search(**given, k=5)


@st.composite
def searches(draw: st.DrawFn) -> tuple[Index, np.ndarray, dict[str, object]]:
    """Small catalogs with few different codes, and any search of them."""
    n_lists = draw(st.integers(1, 6))
    metric = draw(st.sampled_from(METRICS))
    # In one dimension all cosines are 1 or −1: of lists that tie so, rounding decides which come.
    least_len = 2 if metric == "cosine" else 1
    scales = draw(st.booleans())
    index = random_index(
        metric,
        n_items=draw(st.integers(0, 60)),
        n_lists=n_lists,
        pq_dim=draw(st.integers(1, 3)),
        pq_bits=draw(st.sampled_from([1, 2, 4])),
        pq_len=draw(st.integers(least_len, 3)),
        rotation=draw(st.sampled_from(rotations_of(metric, scales=scales))),
        seed=draw(st.integers(0, 2**16)),
        encodes_residual=draw(st.booleans()),
        filled_lists=draw(st.integers(1, n_lists)),
        scales=scales,
        vectors=draw(st.none() | st.sampled_from(VECTOR_DTYPES)),
    )
    n_queries = draw(st.integers(0, 5))
    search: dict[str, object] = {
        "k": draw(st.integers(1, 70)),
        "n_probes": draw(st.none() | st.integers(1, n_lists)),
        "refine": draw(st.none() | st.integers(0, 5 if index.has_vectors else 0)),
    }
    for name in ("exclude", "allow"):
        if draw(st.booleans()):
            ids = st.lists(st.sampled_from([*index.item_ids.tolist(), -1, 3]))
            lists = st.lists(ids, min_size=n_queries, max_size=n_queries)
            search[name] = draw(lists | ids.map(ItemSet))
    return index, random_queries(index, n_queries, draw(st.integers(0, 2**16))), search


@pytest.mark.parametrize("name", OPENERS)
@given(searches())
def test_any_search(name: str, case: tuple[Index, np.ndarray, dict[str, object]]) -> None:
    check_case(OPENERS[name], *case)


def check_case(
    opener: Callable[[Index], Searcher],
    index: Index,
    queries: np.ndarray,
    search: dict[str, object],
) -> None:
    """The answer is right, and neither filter leaks."""
    got = check(opener(index), queries, **search)
    for i in range(len(queries)):
        if "exclude" in search:
            assert not np.isin(got[i][1], ids_for(search["exclude"], i)).any()
        if "allow" in search:
            assert np.isin(got[i][1], ids_for(search["allow"], i)).all()


def ids_for(given: Any, i: int) -> Any:
    """The ids that ``exclude`` or ``allow`` holds for query ``i``."""
    return given.item_ids if isinstance(given, ItemSet) else given[i]
