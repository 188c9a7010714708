"""The quality benchmark up to its methods: relevance, saved trials, lists, and what is compared."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")

from benchmarks.quality import judge, methods
from benchmarks.quality.lists import Lists, dead_codewords, probes_within
from benchmarks.quality.relevance import Relevance
from benchmarks.quality.trial import (
    ARRAYS,
    ROWS,
    Trial,
    TrialName,
    load_trial,
    save_trial,
    whole_trials,
)
from merlin_poeem import Candidates, IdLists
from merlin_poeem.evaluate import (
    agreement,
    exact_search,
    items_scanned,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from tests.benchmarks.quality_trials import N_ITEMS, N_LISTS, N_QUERIES, make_trial, one_thread

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
    assert relevance.quality(found) == {
        "recall_at_20": pytest.approx(recall_at_k(found, of_queries, 20), abs=1e-15),
        "ndcg_at_20": pytest.approx(ndcg_at_k(found, of_queries, 20), abs=1e-15),
        "precision_at_100": precision_at_k(found, of_queries, 100),
    }
    share = relevance.share_found(found).mean()
    assert share == pytest.approx(recall_at_k(found, of_queries, 100), abs=1e-15)


def test_results_of_another_number_of_queries_are_refused() -> None:
    relevance = Relevance.of_each(IdLists.from_rows([[1], [2]]))
    with pytest.raises(ValueError, match="found: expected results of 2 queries, got 1"):
        relevance.quality(found_of([[1]]))


def test_nothing_right_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a query with a right item, got none"):
        Relevance.of_each(IdLists.from_rows([[]])).quality(found_of([[1]]))


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
    found = methods.exact(trial).search(0)
    expected = exact_search(
        trial.item_ids, trial.item_vectors, trial.queries, k=100, exclude=trial.exclude
    )
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert agreement(found, expected, 100) == 1


@pytest.fixture(scope="module")
def of_all(trial: Trial) -> dict[tuple[str, str], methods.Method]:
    return {(method.name, method.form): method for method in judge.methods_of(trial, (4, 8))}


def test_methods_of_the_learned_vectors(of_all: dict[tuple[str, str], methods.Method]) -> None:
    for name in ("Faiss IVF-PQ", "Faiss OPQ+IVF-PQ"):
        for form, n_bytes in (("8x8", 8), ("8x4", 4), ("4x8", 4)):
            assert of_all[f"{name} of ours-8 vectors", form].bytes_per_item == n_bytes
    assert of_all["ours-8", "8x8"].build_seconds == 0.5
    assert {("lists of ours-8", "float"), ("k-means lists of ours-8 vectors", "float")} < {*of_all}
    has_scann = find_spec("scann") is not None
    assert has_scann == (("ScaNN of ours-8 vectors", "16x4") in of_all)


def test_no_method_returns_excluded_items_and_all_probes_find_enough(
    trial: Trial, of_all: dict[tuple[str, str], methods.Method]
) -> None:
    for name, method in of_all.items():
        found = method.search(N_LISTS)
        assert (found.counts == 100).all(), name
        for i in range(N_QUERIES):
            assert not np.isin(found[i][1], trial.exclude.row(i)).any(), name
            assert len(set(found[i][1].tolist())) == 100, name


def test_lists_only_scan_the_visited_lists_exactly(trial: Trial) -> None:
    method = methods.learned_lists(trial, trial.index)
    truth = methods.exact(trial).search(0)
    assert agreement(method.search(N_LISTS), truth, 100) == 1
    one = method.search(1)
    scores = method.lists.scores
    lists = dict(zip(trial.index.item_ids.tolist(), trial.index.list_ids.tolist(), strict=True))
    for i in range(N_QUERIES):
        assert {lists[item] for item in one[i][1].tolist()} == {int(scores[i].argmax())}
    quantized = methods.learned(trial, trial.index)
    np.testing.assert_allclose(method.lists.scanned, quantized.lists.scanned)


def test_scann_scans_the_items_that_its_row_says(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scann")
    from benchmarks.quality.scann_method import built_by_scann

    monkeypatch.setattr(methods, "MANY", N_ITEMS)  # a search returns all that it scans
    (method,) = built_by_scann(replace(trial, exclude=None), (8,))
    for n_probes in range(1, N_LISTS + 1):
        found = method.search(n_probes)
        assert found.counts.mean() == pytest.approx(method.lists.scanned[n_probes - 1])


def test_scann_codes_must_divide_the_vectors(trial: Trial) -> None:
    pytest.importorskip("scann")
    from benchmarks.quality.scann_method import built_by_scann

    with pytest.raises(ValueError, match="dim: expected a multiple of 24, got 16"):
        next(built_by_scann(trial, (12,)))


def test_without_scann_the_others_are_judged_and_it_says_so(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "scann", None)
    names = {method.name for method in judge.methods_of(trial, ())}
    assert names == {
        "ours-8",
        "ours-8, by inner product",
        "lists of ours-8",
        "k-means lists of ours-8 vectors",
    }
    assert "    ScaNN left out: " in capsys.readouterr().out
