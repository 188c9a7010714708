"""The quality benchmark up to its methods: relevance, saved trials, lists, and what is compared."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")

import faiss

from benchmarks.quality import afterwards, faiss_methods, fit_method, judge, methods
from benchmarks.quality.afterwards import Way
from benchmarks.quality.lists import Lists, dead_codewords, probes_within
from benchmarks.quality.permit import Permit
from benchmarks.quality.relevance import Relevance
from benchmarks.quality.second_look import first_of, second_look
from benchmarks.quality.trial import (
    ARRAYS,
    ROWS,
    Trial,
    TrialName,
    load_trial,
    save_trial,
    whole_trials,
)
from benchmarks.quality.variants import POEEM
from merlin_poeem import Candidates, IdLists
from merlin_poeem.evaluate import (
    agreement,
    exact_search,
    items_scanned,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from tests.benchmarks.quality_trials import (
    DIM,
    N_ITEMS,
    N_LISTS,
    N_QUERIES,
    make_trial,
    one_thread,
)

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


@pytest.fixture(scope="module")
def trial() -> Trial:
    return make_trial()


def found_of(rows: list[list[int]]) -> Candidates:
    return Candidates.from_rows(
        [(-np.arange(len(row), dtype=np.float32), np.array(row, np.int64)) for row in rows]
    )


# --- relevance -----------------------------------------------------------------------------------

lengths = st.lists(st.integers(0, 130), min_size=1, max_size=5)


@given(of_found=lengths, of_right=lengths, seed=st.integers(0, 9))
def test_quality_is_that_of_evaluate(of_found: list[int], of_right: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, right = (
        [rng.permutation(150)[:n].tolist() for n in lengths] for lengths in (of_found, of_right)
    )
    right[0] = right[0] or [3]
    groups = rng.integers(0, len(right), len(rows))
    groups[0] = 0
    found, of_queries = found_of(rows), [right[group] for group in groups]
    relevance = Relevance(IdLists.from_rows(right), groups)
    means = {name: values.mean() for name, values in relevance.per_query(found).items()}
    assert means == {
        "recall_at_20": pytest.approx(recall_at_k(found, of_queries, 20), abs=1e-15),
        "ndcg_at_20": pytest.approx(ndcg_at_k(found, of_queries, 20), abs=1e-15),
        "recall_at_100": pytest.approx(recall_at_k(found, of_queries, 100), abs=1e-15),
        "precision_at_100": pytest.approx(precision_at_k(found, of_queries, 100), abs=1e-15),
    }
    share = relevance.share_found(found).mean()
    assert share == pytest.approx(recall_at_k(found, of_queries, 100), abs=1e-15)


def test_results_of_another_number_of_queries_are_refused() -> None:
    relevance = Relevance.of_each(IdLists.from_rows([[1], [2]]))
    with pytest.raises(ValueError, match="found: expected results of 2 queries, got 1"):
        relevance.per_query(found_of([[1]]))


def test_nothing_right_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a query with a right item, got none"):
        Relevance.of_each(IdLists.from_rows([[]])).per_query(found_of([[1]]))


def test_negative_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="lists: expected ids from 0, got -4"):
        Relevance.of_each(IdLists.from_rows([[3], [-4]]))


@pytest.mark.parametrize("groups", [[0, 2], [-1, 0]])
def test_unknown_groups_are_refused(groups: list[int]) -> None:
    with pytest.raises(ValueError, match="groups: expected numbers below 2"):
        Relevance(IdLists.from_rows([[3], [4]]), np.array(groups))


# --- trials --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["ours-8", "plain"])
def test_a_trial_comes_back_whole(tmp_path: Path, variant: str) -> None:
    saved = make_trial(variant)
    saved = replace(saved, exclude=None) if variant == "plain" else saved
    folder = save_trial(saved, tmp_path)
    assert folder == tmp_path / "trials" / "validation" / "movielens-1m" / f"{variant}-0"
    assert whole_trials(tmp_path) == [folder]
    assert whole_trials(tmp_path, "test") == []
    loaded = load_trial(folder)
    assert loaded.name == saved.name
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    np.testing.assert_array_equal(loaded.relevance.groups, saved.relevance.groups)
    assert loaded.relevance.lists.row(7).tolist() == saved.relevance.lists.row(7).tolist()
    assert loaded.facts.items() >= saved.facts.items()
    if variant == "plain":
        assert loaded.index is None
        assert loaded.exclude is None
    else:
        np.testing.assert_array_equal(loaded.index.codes, saved.index.codes)
        assert loaded.exclude.row(9).tolist() == saved.exclude.row(9).tolist()


def test_without_its_facts_a_trial_is_not_whole(tmp_path: Path, trial: Trial) -> None:
    folder = save_trial(trial, tmp_path)
    (folder / "trial.json").unlink()
    assert whole_trials(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="expected a whole trial with trial"):
        load_trial(folder)


def test_a_trial_of_test_pairs_is_loaded_with_a_permit_alone(tmp_path: Path) -> None:
    folder = save_trial(make_trial("plain", part="test"), tmp_path)
    with pytest.raises(PermissionError, match="expected a permit to read test pairs, got none"):
        load_trial(folder)
    assert load_trial(folder, Permit("a digest")).name.part == "test"


def test_options_of_a_variant_are_in_its_folder(tmp_path: Path) -> None:
    name = TrialName("gowalla", "ours-8:commitment=0.5,rotation=false", 1, "test")
    place = "trials/test/gowalla/ours-8+commitment=0.5+rotation=false-1"
    assert name.folder(tmp_path) == tmp_path / place


def test_saving_anew_forgets_the_old_rows(tmp_path: Path, trial: Trial) -> None:
    folder = save_trial(trial, tmp_path)
    (folder / ROWS).write_text("{}")
    save_trial(trial, tmp_path)
    assert not (folder / ROWS).exists()


# --- lists ---------------------------------------------------------------------------------------


def test_scanned_is_that_of_evaluate(trial: Trial) -> None:
    lists = Lists.of(trial.index, trial.queries)
    expected = [items_scanned(trial.index, trial.queries, n).mean() for n in range(1, N_LISTS + 1)]
    np.testing.assert_allclose(lists.scanned, expected)


def test_probes_are_a_ladder_and_what_the_shares_need() -> None:
    sizes = np.full(64, 10)
    assert Lists(sizes, np.zeros((1, 64), np.float32)).probes() == [1, 2, 3, 4, 6, 8, 16, 32, 64]
    assert Lists(sizes[:6], np.zeros((1, 6), np.float32)).probes() == [1, 2, 4, 6]


def test_the_most_probes_within_a_limit() -> None:
    scanned = np.array([10.0, 20.0, 30.0])
    assert [probes_within(scanned, limit) for limit in (9, 10, 29.9, 30, 99)] == [0, 1, 2, 3, 3]


def test_dead_codewords_are_those_without_an_item() -> None:
    codes = np.array([[0, 0], [1, 0], [2, 0]], np.uint8)
    assert dead_codewords(codes, 4) == 1 - 4 / 8


# --- methods -------------------------------------------------------------------------------------


def test_exact_is_that_of_evaluate(trial: Trial) -> None:
    found = methods.exact(trial).search(0, 100)
    expected = exact_search(
        trial.item_ids, trial.item_vectors, trial.queries, k=100, exclude=trial.exclude
    )
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert agreement(found, expected, 100) == 1


def test_lists_only_scan_the_visited_lists_exactly(trial: Trial) -> None:
    method = methods.learned_lists(trial, trial.index)
    truth = methods.exact(trial).search(0, 100)
    assert agreement(method.search(N_LISTS, 100), truth, 100) == 1
    one = method.search(1, 100)
    scores = method.lists.scores
    lists = dict(zip(trial.index.item_ids.tolist(), trial.index.list_ids.tolist(), strict=True))
    for i in range(N_QUERIES):
        assert {lists[item] for item in one[i][1].tolist()} == {int(scores[i].argmax())}
    quantized = methods.learned(trial, trial.index)
    np.testing.assert_allclose(method.lists.scanned, quantized.lists.scanned)


@pytest.mark.parametrize(
    ("variant", "family", "knobs"),
    [
        ("ours-8", "ours", {}),
        ("ours-8:commitment=0.5", "ours", {"commitment": 0.5}),
        ("poeem-8", "Poeem's objective", POEEM),
    ],
)
def test_a_learned_index_is_of_a_family(variant: str, family: str, knobs: dict) -> None:
    trial = make_trial(variant)
    method = methods.learned(trial, trial.index)
    assert (method.name, method.family, method.knobs) == (variant, family, knobs)
    assert (method.form, method.bytes_per_item, method.build_seconds) == ("8x8", 9, 0.5)


# --- built afterwards ----------------------------------------------------------------------------

SIZE = 9
WAYS = list(afterwards.ways(DIM, SIZE))


@pytest.fixture(scope="module")
def plain() -> Trial:
    return make_trial("plain")


def of_family(family: str, **knobs: Any) -> Way:
    return Way(family, SIZE, knobs)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_is_built_afterwards(plain: Trial, way: Way) -> None:
    if way.family == afterwards.SCANN:
        pytest.importorskip("scann")
    method = judge.BUILDERS[way.family](plain, way)
    assert method.name == f"{way} of plain vectors"
    assert (method.family, method.knobs) == (way.family, way.knobs)
    codes = {"Faiss": "9x8", "ScaNN": "16x4"}.get(way.family, "8x8")
    assert method.form == ("8x8" if way.knobs.get("opq") is False else codes)
    assert method.bytes_per_item <= SIZE
    found = method.search(N_LISTS, 100)
    assert (found.counts == 100).all()
    for i in range(N_QUERIES):
        assert not np.isin(found[i][1], plain.exclude.row(i)).any()
        assert len(set(found[i][1].tolist())) == 100
    truth = methods.exact(plain).search(0, 100)
    assert agreement(found, truth, 100) > 0.8


def test_ways_are_the_default_and_what_differs_from_it() -> None:
    first = {}
    for way in WAYS:
        first.setdefault(way.family, way)
    assert [*first] == list(afterwards.FAMILIES)
    assert not any(way.knobs for way in first.values())
    assert len({str(way) for way in WAYS}) == len(WAYS)


@pytest.mark.parametrize(
    ("dim", "n_codes", "default", "others"),
    [(128, 9, 126, [135]), (64, 33, 66, [33]), (128, 8, 128, [False]), (16, 33, 33, [])],
)
def test_opq_turns_to_a_width_that_the_codes_divide(
    dim: int, n_codes: int, default: int, others: list
) -> None:
    assert afterwards.default_width(dim, n_codes) == default
    assert [knob.get("opq") for knob in afterwards.rotations(dim, n_codes)] == [None, *others]


def test_opq_to_more_dimensions_keeps_the_inner_products(plain: Trial) -> None:
    wide = faiss_methods.opq_matrix(plain, 9, 18)
    assert wide.shape == (DIM, 18)
    np.testing.assert_allclose(wide @ wide.T, np.eye(DIM), atol=1e-5)
    narrow = faiss_methods.opq_matrix(plain, 9, 9)
    np.testing.assert_allclose(narrow.T @ narrow, np.eye(9), atol=1e-5)


def test_scales_leave_faiss_its_codes_and_mend_lengths(plain: Trial) -> None:
    vectors, metric = plain.item_vectors, faiss.METRIC_L2
    index = faiss_methods.ivf_pq(plain.item_ids, vectors, N_LISTS, 2, metric)
    scaled = faiss_methods.with_scales(index, plain.item_ids, vectors)
    np.testing.assert_array_equal(scaled.item_ids, index.item_ids)
    np.testing.assert_array_equal(scaled.codes, index.codes)
    errors = [
        np.linalg.norm(vectors - some.decode(plain.item_ids), axis=1) for some in (index, scaled)
    ]
    assert errors[1].mean() < errors[0].mean()
    assert len(np.unique(scaled.scales)) > 10


def test_fit_weighs_items_by_how_often_they_are_wanted(plain: Trial) -> None:
    often = np.where(np.arange(N_ITEMS) < 20, 10_000, 1)
    trial = replace(plain, item_frequencies=often)
    found = []
    for knobs in ({}, {"weights": "alike"}):
        way = Way(afterwards.FIT, 5, knobs)
        index = fit_method.fitted(trial, way)
        errors = np.linalg.norm(trial.item_vectors - index.decode(trial.item_ids), axis=1)
        found.append(errors[:20].mean())
    assert found[0] < found[1]


def test_fit_is_told_of_training_queries(plain: Trial) -> None:
    along = np.zeros((50, DIM), np.float32)
    along[:, 0] = 1
    trial = replace(plain, train_queries=along)
    errors = []
    for knobs in ({}, {"stretch": 1.0}):
        index = fit_method.fitted(trial, Way(afterwards.FIT, 5, knobs))
        decoded = index.decode(trial.item_ids)
        errors.append(np.abs(trial.item_vectors - decoded)[:, 0].mean())
    assert errors[1] < 0.7 * errors[0]


def test_kmeans_lists_are_by_distance_or_by_direction(plain: Trial) -> None:
    longer = replace(plain, item_vectors=3 * plain.item_vectors)
    by_distance, by_direction = (
        methods.kmeans_lists(longer, spherical=spherical).lists.scores.max()
        for spherical in (False, True)
    )
    assert by_direction <= 1.001 < by_distance  # queries are of unit length


def test_scann_scans_the_items_that_its_row_says(plain: Trial) -> None:
    pytest.importorskip("scann")
    from benchmarks.quality.scann_method import built_by_scann

    method = built_by_scann(replace(plain, exclude=None), of_family(afterwards.SCANN))
    for n_probes in range(1, N_LISTS + 1):
        found = method.search(n_probes, N_ITEMS)  # all that it scans
        assert found.counts.mean() == pytest.approx(method.lists.scanned[n_probes - 1])


def test_without_scann_the_others_are_judged_and_it_says_so(
    plain: Trial, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "scann", None)
    plan = judge.Plan(lambda _: [of_family(afterwards.SCANN)], at_all_probes=True, how={})
    names = {method.name for method in judge.methods_of(plain, plan)}
    assert names == {"k-means lists of plain vectors", "spherical k-means lists of plain vectors"}
    assert "    ScaNN left out: " in capsys.readouterr().out


# --- second look ---------------------------------------------------------------------------------


def test_a_second_look_orders_by_float16_vectors(trial: Trial) -> None:
    coarse = methods.learned(trial, trial.index).search(N_LISTS, 200)
    some = first_of(coarse, 40)
    looked = second_look(trial, some)
    vectors = dict(zip(trial.item_ids.tolist(), trial.item_vectors.astype(np.float16), strict=True))
    for i in range(N_QUERIES):
        scores, item_ids = looked[i]
        np.testing.assert_array_equal(some[i][1], coarse[i][1][:40])
        assert set(item_ids.tolist()) == set(some[i][1].tolist())
        expected = [vectors[item].astype(np.float32) @ trial.queries[i] for item in item_ids]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        assert (np.diff(scores) <= 0).all()


def test_a_second_look_at_everything_is_exact_search(trial: Trial) -> None:
    everything = methods.learned(trial, trial.index).search(N_LISTS, N_ITEMS)
    truth = methods.exact(trial).search(0, 100)
    looked = first_of(second_look(trial, everything), 100)
    assert agreement(looked, truth, 100) > 0.99


def test_first_results_of_short_rows() -> None:
    first = first_of(found_of([[5, 3, 9], [], [7]]), 2)
    assert [row[1].tolist() for row in first] == [[5, 3], [], [7]]
