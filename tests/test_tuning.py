"""tune: on a catalog whose answer is known, and on what it must refuse."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem import (
    FlatIndex,
    Index,
    ItemCodes,
    IVFPQParams,
    Quantization,
    fit,
    open_searcher,
    tune,
)
from merlin_poeem.evaluate import agreement, exact_search, items_scanned
from merlin_poeem.tuning.settings import Setting
from merlin_poeem.tuning.tune import SLACK, _Enough
from tests.index_factories import random_index, random_queries, random_rotation

K, N_LISTS, LIST_SIZE, N_RIGHT_LISTS = 10, 16, 10, 5


@pytest.fixture
def known() -> Index:
    """Lists are visited from the first on, and the codes tell no items of one list apart.

    Two items of each of the first five lists are the exact ten best, those with its highest ids.
    The candidates of refine r are therefore the first r lists, whole.
    """
    n_items = N_LISTS * LIST_SIZE
    list_ids = np.repeat(np.arange(N_LISTS), LIST_SIZE)
    params = IVFPQParams(n_lists=N_LISTS, pq_dim=1, pq_bits=1)
    quantization = Quantization(
        np.eye(N_LISTS, dtype=np.float32), np.zeros((1, 2, N_LISTS), np.float32)
    )
    codes = ItemCodes(np.arange(n_items), list_ids, np.zeros((n_items, 1), np.uint8))
    own = np.zeros((n_items, N_LISTS), np.float32)
    is_right = (list_ids < N_RIGHT_LISTS) & (np.arange(n_items) % LIST_SIZE >= LIST_SIZE - 2)
    own[is_right] = 1
    index = Index.from_codes(params, quantization, codes).without_list_lengths()
    return index.with_vectors(np.arange(n_items), own).with_refine(0)


@pytest.fixture
def queries() -> np.ndarray:
    return np.tile(np.linspace(2, 1, N_LISTS, dtype=np.float32), (7, 1))


@pytest.mark.parametrize(
    ("target", "n_probes", "refine"),
    [(0.2, 1, 0), (0.4, 2, 2), (0.41, 3, 4), (0.6, 3, 4), (0.8, 4, 4), (0.81, 5, 8), (1, 5, 8)],
)
def test_the_cheapest_setting_that_reaches_the_target(
    known: Index, queries: np.ndarray, target: float, n_probes: int, refine: int
) -> None:
    tuned = tune(known, queries, K, target=target, n_probes=range(1, 17))
    assert (tuned.setting.n_probes, tuned.setting.refine) == (n_probes, refine)
    assert tuned.reached
    assert tuned.setting.quality >= target - 1e-9
    assert tuned.setting.items_scanned == n_probes * LIST_SIZE
    assert (tuned.index.params.n_probes, tuned.index.refine) == (n_probes, refine)
    # One byte of codes an item; 2 of a dimension and 4 of a scale of what is looked at again.
    looked_at = min(refine * K, n_probes * LIST_SIZE)
    assert tuned.setting.bytes_read == n_probes * LIST_SIZE + looked_at * (2 * N_LISTS + 4)


def test_the_default_of_the_tuned_index_finds_as_much(known: Index, queries: np.ndarray) -> None:
    tuned = tune(known, queries, K, target=0.8, n_probes=range(1, 17))
    found = open_searcher(tuned.index, "reference").search(queries, k=K)
    assert set(found[0][1].tolist()) & {8, 9, 18, 19, 28, 29, 38, 39} == {
        *(8, 9, 18, 19, 28, 29, 38, 39)
    }


def test_what_is_not_reached_is_told(
    known: Index, queries: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tuned = tune(known, queries, K, target=0.9, refine=[0, 4], n_probes=[1, 3, 16])
    assert not tuned.reached
    assert (tuned.setting.n_probes, tuned.setting.refine) == (16, 4)
    assert tuned.setting.quality == pytest.approx(0.8)
    assert "no setting reaches 0.9000; the best of those allowed has 0.8000" in caplog.text


def test_relevant_items_are_what_is_to_be_found(known: Index, queries: np.ndarray) -> None:
    # Item 8 is of the first list, 38 of the fourth: half of it is found in one, all in four.
    relevant = [[8, 38]] * len(queries)
    half = tune(known, queries, K, relevant=relevant, target=0.5, n_probes=range(1, 17))
    assert (half.setting.n_probes, half.setting.quality) == (1, 0.5)
    whole = tune(known, queries, K, relevant=relevant, target=1, n_probes=range(1, 17))
    assert (whole.setting.n_probes, whole.setting.refine) == (4, 4)
    # Item 0 is none that exact search returns: what it loses nobody has to find.
    lost = [[8, 0]] * len(queries)
    of_exact = tune(known, queries, K, relevant=lost, target=1, n_probes=range(1, 17))
    assert (of_exact.target, of_exact.setting.n_probes) == (0.5, 1)


def test_relevant_items_without_exact_vectors() -> None:
    index = random_index(n_items=300)
    queries = random_queries(index, 20)
    best = open_searcher(index, "reference").search(queries, k=5, n_probes=8)
    relevant = [best[i][1][:3] for i in range(20)]
    tuned = tune(index, queries, 5, relevant=relevant, target=1)
    assert tuned.setting.quality == 1
    assert {setting.refine for setting in tuned.settings} == {0}
    fewer = tune(index, queries, 5, relevant=relevant, target=0.5)
    assert fewer.setting.n_probes < tuned.setting.n_probes


@pytest.mark.parametrize(
    ("metric", "is_stretched"),
    [
        ("inner_product", False),
        ("inner_product", True),
        ("cosine", False),
        ("cosine", True),
        ("l2", False),
    ],
)
def test_quality_is_agreement_with_exact_search(metric: str, is_stretched: bool) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((600, 8)).astype(np.float32)
    params = IVFPQParams(n_lists=8, pq_dim=2, pq_bits=4, metric=metric)  # type: ignore[arg-type]
    if is_stretched:
        looking = rng.standard_normal((100, 8)) * np.geomspace(3, 0.3, 8)
        quantization = fit(params, vectors, queries=looking.astype(np.float32))
    else:
        quantization = replace(fit(params, vectors), rotation=random_rotation(rng, 8))
    index = Index.from_vectors(params, quantization, range(600), vectors)
    queries = rng.standard_normal((30, 8)).astype(np.float32)
    exact = FlatIndex.from_vectors(range(600), vectors, metric=metric)  # type: ignore[arg-type]
    by_codes = tune(index, queries, 10, exact=exact, n_probes=[2, 8])
    with_vectors = index.with_vectors(range(600), vectors)
    by_both = tune(with_vectors, queries, 10, n_probes=[2, 8], refine=[0, 4], target=1)
    truth = exact_search(np.arange(600), vectors, queries, k=10, metric=metric)  # type: ignore[arg-type]
    assert len(by_both.settings) == 4
    for setting in (*by_codes.settings, *by_both.settings):
        found = open_searcher(with_vectors, "reference").search(
            queries, k=10, n_probes=setting.n_probes, refine=setting.refine
        )
        assert setting.quality == pytest.approx(agreement(found, truth, 10), abs=0.005)
        scanned = items_scanned(index, queries, setting.n_probes).mean()
        assert setting.items_scanned == pytest.approx(float(scanned))


def test_excluded_items_are_no_loss(known: Index, queries: np.ndarray) -> None:
    # Without the right items of all lists but the first, those of the first are the best of all.
    exclude = [[18, 19, 28, 29, 38, 39, 48, 49]] * len(queries)
    tuned = tune(known, queries, 2, exclude=exclude, target=1, n_probes=range(1, 17))
    assert tuned.setting.n_probes == 1


def test_by_time_and_within_a_budget(known: Index, queries: np.ndarray) -> None:
    by_time = tune(known, queries, K, target=0.6, by="time", n_probes=range(1, 17))
    timed = [each for each in by_time.settings if each.milliseconds is not None]
    assert by_time.setting.milliseconds == min(each.milliseconds for each in timed)
    assert all(each.quality >= 0.6 for each in timed)
    plenty = tune(known, queries, K, within=1e6, batch=1, n_probes=range(1, 9))
    assert (plenty.setting.n_probes, plenty.setting.refine) == (5, 8)
    none = tune(known, queries, K, within=1e-9, batch=1, n_probes=range(1, 9))
    assert none.setting.n_probes == 1
    assert none.setting.milliseconds == min(each.milliseconds for each in none.settings)


def test_a_budget_that_no_setting_meets_is_told(
    known: Index, queries: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tuned = tune(known, queries, K, target=0.01, within=1e-9, batch=1, n_probes=[1, 2])
    assert not tuned.reached
    assert "tune: no setting takes at most 1e-09 ms; the fastest takes" in caplog.text


def test_queries_without_a_relevant_item_are_not_drawn(known: Index) -> None:
    queries = np.tile(np.linspace(2, 1, N_LISTS, dtype=np.float32), (5000, 1))
    relevant: list[list[int]] = [[] for _ in range(5000)]
    relevant[4999] = [38]
    tuned = tune(known, queries, K, relevant=relevant, target=1, n_probes=range(1, 17))
    assert (tuned.setting.n_probes, tuned.setting.quality) == (4, 1)


def test_relevant_items_that_exact_search_never_finds(known: Index, queries: np.ndarray) -> None:
    with pytest.raises(ValueError, match="relevant: expected ids of the index, some of which"):
        tune(known, queries, K, relevant=[[10**9]] * 7)
    with pytest.raises(ValueError, match="relevant: expected a query with a relevant item"):
        tune(known, queries, K, relevant=[[]] * 7)
    with pytest.raises(ValueError, match="exclude: expected items that a query may have"):
        tune(known, queries, K, exclude=known.item_ids)


def test_an_index_without_vectors_looks_again_once_it_has_some(
    known: Index, queries: np.ndarray
) -> None:
    own = known.vectors_of(known.item_ids)
    exact = FlatIndex.from_vectors(known.item_ids, own)
    tuned = tune(known.without_vectors(), queries, K, exact=exact).index
    assert (tuned.refine, tuned.with_vectors(known.item_ids, own).refine) == (0, 4)


def test_the_reference_needs_no_faiss(
    known: Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    tuned = tune(known, queries, K, target=0.6, n_probes=range(1, 17), backend="reference")
    assert (tuned.setting.n_probes, tuned.setting.refine) == (3, 4)


def test_table_and_plot(known: Index, queries: np.ndarray, tmp_path: Path) -> None:
    tuned = tune(known, queries, K, target=1, n_probes=range(1, 17))
    table = tuned.table()
    assert len(table) == len(tuned.settings)
    assert table["quality"].max() == 1
    assert list(table) == [
        *("n_probes", "refine", "quality", "items_scanned", "bytes_read", "milliseconds")
    ]
    tuned.plot(tmp_path / "tuned.png")
    assert (tmp_path / "tuned.png").stat().st_size > 10_000


def test_no_more_settings_than_can_be_cheaper(known: Index, queries: np.ndarray) -> None:
    relevant = [[8]] * len(queries)
    tuned = tune(known, queries, K, relevant=relevant, refine=[0], n_probes=range(1, 17))
    assert [each.n_probes for each in tuned.settings] == [1]


def settings_of(*found: tuple[float, float]) -> list[Setting]:
    """Of (quality, bytes read) each."""
    return [Setting(1, 0, quality, 0, n_bytes, None) for quality, n_bytes in found]


def timed(*milliseconds: float) -> list[Setting]:
    return [Setting(1, 0, 0.5, 0, 10, each) for each in milliseconds]


def test_enough_is_where_codes_alone_cost_as_much_as_what_has_reached() -> None:
    enough = _Enough(0.9, SLACK["scanned"], None)
    assert not enough.after(settings_of((0.5, 10)), 10)
    assert not enough.after(settings_of((0.95, 100)), 20)
    assert not enough.after(settings_of((0.5, 30), (0.99, 60)), 40)
    assert enough.after(settings_of((1, 200)), 60)
    # The fastest may read more.
    by_time = _Enough(0.9, SLACK["time"], None)
    reached = [by_time.after(settings_of((0.95, n)), n) for n in (20, 40, 60)]
    assert reached == [False, False, True]
    # As long as the target is not known, all are tried.
    assert not _Enough(None, 1, None).after(settings_of((1, 10)), 10**9)


def test_enough_within_a_budget_is_where_none_of_the_latest_meets_it() -> None:
    enough = _Enough(0.9, SLACK["scanned"], 5)
    assert not enough.after(timed(4, 9), 10**9)
    assert enough.after(timed(6, 9), 1)


def test_some_of_many_queries(known: Index) -> None:
    queries = np.tile(np.linspace(2, 1, N_LISTS, dtype=np.float32), (1500, 1))
    relevant = [[8, 38]] * 1500
    assert tune(known, queries, K, relevant=relevant).setting.n_probes == 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": 0}, ValueError, "target: expected above 0, at most 1; got 0"),
        ({"target": 1.5}, ValueError, "target: expected above 0, at most 1; got 1.5"),
        ({"by": "space"}, ValueError, "by: expected scanned or time, got 'space'"),
        ({"within": 0}, ValueError, "within: expected milliseconds above 0, got 0"),
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"batch": 0}, ValueError, "batch: expected at least 1, got 0"),
        ({"n_probes": [17]}, ValueError, "n_probes: expected at most n_lists = 16, got 17"),
        ({"refine": [-1]}, ValueError, "refine: expected at least 0, got -1"),
        ({"n_probes": []}, ValueError, "n_probes: expected at least one number, got none"),
        ({"refine": []}, ValueError, "refine: expected at least one number, got none"),
        ({"relevant": [[1]]}, ValueError, "relevant: expected 7 lists, one a query; got 1"),
        ({"exclude": [[1]]}, ValueError, "exclude: expected 7 lists, one a query; got 1"),
        ({"queries": np.zeros((0, N_LISTS), np.float32)}, ValueError, "expected at least one"),
        ({"queries": np.zeros((2, 3), np.float32)}, ValueError, r"queries: expected shape"),
    ],
)
def test_refused(
    known: Index, queries: np.ndarray, change: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        tune(known, **{"queries": queries, "k": K, **change})


def test_vectors_that_are_missing_or_of_others(known: Index, queries: np.ndarray) -> None:
    without = known.without_vectors()
    with pytest.raises(ValueError, match="exact: expected the items' exact vectors, as the index"):
        tune(without, queries, K)
    with pytest.raises(ValueError, match="refine: expected 0, as the index holds no vectors"):
        tune(without, queries, K, relevant=[[1]] * 7, refine=[4])
    others = FlatIndex.from_vectors([1], np.ones((1, N_LISTS), np.float32))
    with pytest.raises(ValueError, match="exact: expected the items of the index, got others"):
        tune(without, queries, K, exact=others)
    l2 = FlatIndex.from_vectors([1], np.ones((1, N_LISTS), np.float32), metric="l2")
    with pytest.raises(ValueError, match="exact: expected metric inner_product, got l2"):
        tune(without, queries, K, exact=l2)
    with pytest.raises(TypeError, match=r"index: expected an Index, got merlin_poeem\.FlatIndex"):
        tune(others, queries, K)  # type: ignore[arg-type]
    empty = without.remove(without.item_ids)
    with pytest.raises(ValueError, match="index: expected one that holds items, got none"):
        tune(empty, queries, K)
