"""The quality benchmark from its methods to its rows, and tables of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")

from benchmarks.quality import judge, methods, tables
from benchmarks.quality.afterwards import FAISS_SCALES, Way
from benchmarks.quality.judge import AGREEMENT, PER_QUERY, Plan
from benchmarks.quality.permit import CHOSEN, Permit
from benchmarks.quality.trial import Trial, save_trial
from merlin_poeem.evaluate import agreement, recall_at_k
from tests.benchmarks.quality_trials import N_ITEMS, N_LISTS, make_trial, one_thread

pytestmark = pytest.mark.usefixtures(one_thread.__name__)
LADDER = Plan(lambda _: [Way(FAISS_SCALES, 9, {"opq": False})], at_all_probes=True, how={"plan": 1})
AT_SHARE = replace(LADDER, at_all_probes=False)


@pytest.fixture(scope="module")
def trial() -> Trial:
    return make_trial()


@pytest.fixture(scope="module", autouse=True)
def wide_share() -> None:
    """A share of the items that two of six lists have."""
    with pytest.MonkeyPatch.context() as patch:
        for name, task in judge.TASKS.items():
            patch.setitem(judge.TASKS, name, replace(task, share=0.4))
        yield


# --- rows ----------------------------------------------------------------------------------------


def test_rows(trial: Trial) -> None:
    rows, _ = judge.judge(trial, LADDER)
    exact, *others = rows
    assert exact["method"] == "exact of ours-8 vectors"
    assert (exact["n_probes"], exact["items_scanned"]) == (0, N_ITEMS)
    assert exact[AGREEMENT] == 1
    ours = [row for row in others if row["method"] == "ours-8" and row["refine"] == 0]
    assert [row["n_probes"] for row in ours][-1] == N_LISTS
    assert ours[-1]["items_scanned"] == N_ITEMS
    found = methods.learned(trial, trial.index).search(1, 100)
    assert ours[0]["recall_at_20"] == pytest.approx(
        recall_at_k(found, trial.relevance.lists, 20), abs=1e-12
    )
    truth = methods.exact(trial).search(0, 100)
    assert ours[0][AGREEMENT] == pytest.approx(agreement(found, truth, 100))
    assert json.loads(json.dumps(rows)) == rows


def test_second_looks_are_rows_of_their_own_with_bytes_of_their_own(trial: Trial) -> None:
    rows, _ = judge.judge(trial, LADDER)
    at_all = {
        row["refine"]: row
        for row in rows
        if row["method"] == "ours-8" and row["n_probes"] == N_LISTS
    }
    assert [*at_all] == [0, 2, 4]
    assert at_all[4][AGREEMENT] > at_all[0][AGREEMENT]
    assert [row["vector_bytes"] for row in at_all.values()] == [0, 32, 32]
    assert {row["bytes_per_item"] for row in at_all.values()} == {9}
    assert {row["refine"] for row in rows if row["family"] == methods.LISTS} == {0}


def test_where_settings_are_chosen_rows_are_at_the_tasks_share(trial: Trial) -> None:
    rows, values = judge.judge(trial, AT_SHARE)
    _, *ours = rows
    lists = methods.learned(trial, trial.index).lists
    limit = judge.TASKS["movielens-1m"].share * N_ITEMS
    expected = int((lists.scanned <= limit).sum())
    assert [(row["n_probes"], row["refine"]) for row in ours] == [(expected, n) for n in (0, 2, 4)]
    assert 1 <= expected < N_LISTS
    for row in rows:
        of_queries = values[f"{row['values']}:recall_at_20"]
        assert of_queries.mean() == pytest.approx(row["recall_at_20"])
        assert len(of_queries) == len(trial.queries)
    ladder, _ = judge.judge(trial, LADDER)
    at_share = [row for row in ladder if row["values"] and row["family"] == "ours"]
    assert [without_key(row) for row in at_share] == [without_key(row) for row in ours]


def without_key(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "values"}


def test_a_method_that_scans_more_with_one_probe_has_no_row_where_settings_are_chosen(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = judge.TASKS["movielens-1m"]
    monkeypatch.setitem(judge.TASKS, "movielens-1m", replace(task, share=0.01))
    rows, _ = judge.judge(trial, AT_SHARE)
    assert [row["family"] for row in rows] == ["exact"]


def test_only_plain_vectors_get_baselines() -> None:
    rows, _ = judge.judge(make_trial("poeem-8"), LADDER)
    names = {row["method"] for row in rows}
    assert names == {"exact of poeem-8 vectors", "poeem-8", "lists of poeem-8"}
    rows, _ = judge.judge(make_trial("plain"), LADDER)
    assert {row["method"] for row in rows} == {
        "exact of plain vectors",
        "k-means lists of plain vectors",
        "spherical k-means lists of plain vectors",
        "Faiss + scales (opq=False) of plain vectors",
    }


def test_judged_trials_are_not_judged_again_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        folder = save_trial(make_trial("ours-8", seed), tmp_path)
    before = judge.judge_all(tmp_path, AT_SHARE)
    assert {row["seed"] for row in before} == {0, 1}
    assert (folder / PER_QUERY).is_file()
    judged: list[int] = []

    def instead(trial: Trial, plan: Plan) -> tuple[list, dict]:
        judged.append(len(trial.queries))
        return [], {}

    monkeypatch.setattr(judge, "judge", instead)
    monkeypatch.setattr(judge, "write_json", lambda path, values: None)
    capsys.readouterr()
    assert judge.judge_all(tmp_path, AT_SHARE) == before
    assert capsys.readouterr().out.count("judged already") == 2
    n_queries = len(make_trial().queries)
    for again in ({"again": True}, {"n_queries": 7}):
        judge.judge_all(tmp_path, AT_SHARE, **again)
    judge.judge_all(tmp_path, LADDER)
    assert judged == [n_queries] * 2 + [7] * 2 + [n_queries] * 2


def test_other_ways_are_judged_anew_of_plain_vectors_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for variant in ("plain", "ours-8"):
        save_trial(make_trial(variant), tmp_path)
    judge.judge_all(tmp_path, AT_SHARE)
    capsys.readouterr()
    judge.judge_all(tmp_path, replace(AT_SHARE, ways=lambda _: [], how={"plan": 2}))
    out = capsys.readouterr().out
    assert "movielens-1m ours-8-0: judged already" in out
    assert "movielens-1m plain-0\n" in out


def test_trials_of_test_pairs_are_judged_with_a_permit_alone(tmp_path: Path) -> None:
    save_trial(make_trial("ours-8", part="test"), tmp_path)
    with pytest.raises(PermissionError, match="expected a permit to read test pairs, got none"):
        judge.judge_all(tmp_path, AT_SHARE, part="test")
    with pytest.raises(FileNotFoundError, match=r"expected trials, got none; run .*training first"):
        judge.judge_all(tmp_path, AT_SHARE)
    (tmp_path / CHOSEN).write_text("{}")
    permit = Permit.begin(tmp_path)
    rows = judge.judge_all(tmp_path, AT_SHARE, part="test", permit=permit)
    assert {row["part"] for row in rows} == {"test"}


def test_some_queries_are_the_same_ones_of_every_trial() -> None:
    trials = [make_trial("plain", 0), make_trial("poeem-8", 0)]
    some, others = (trial.of_some_queries(7) for trial in trials)
    np.testing.assert_array_equal(some.queries, others.queries)
    is_kept = (trials[0].queries[:, None] == some.queries).all(axis=2).any(axis=1)
    rows = np.flatnonzero(is_kept)
    assert len(rows) == 7
    np.testing.assert_array_equal(some.queries, trials[0].queries[rows])
    np.testing.assert_array_equal(some.relevance.groups, trials[0].relevance.groups[rows])
    assert [list(some.exclude.row(i)) for i in range(7)] == [
        list(trials[0].exclude.row(i)) for i in rows
    ]
    with pytest.raises(ValueError, match="queries"):
        trials[0].of_some_queries(0)
    everything = trials[0].of_some_queries(10**6)
    np.testing.assert_array_equal(everything.queries, trials[0].queries)


# --- tables --------------------------------------------------------------------------------------


def rows_of(**columns: list) -> list[dict]:
    """Rows of one method with 1000 items, overridden by ``columns``."""
    n = len(next(iter(columns.values())))
    fixed = {
        "task": "gowalla", "variant": "ours-8", "seed": 0, "method": "ours-8", "form": "8x8",
        "family": "ours", "refine": 0, "bytes_per_item": 9.0, "n_items": 1000, "n_probes": 1,
        "items_scanned": 10.0, "recall_at_20": 0.5,
    }  # fmt: skip
    columns = {**{name: [value] * n for name, value in fixed.items()}, **columns}
    return pd.DataFrame(columns).to_dict("records")


def test_a_share_takes_the_most_probes_within_it() -> None:
    rows = rows_of(
        n_probes=[1, 2, 4, 8, 64],
        items_scanned=[15.0, 30.0, 60.0, 120.0, 1000.0],
        recall_at_20=[0.1, 0.2, 0.3, 0.4, 0.5],
    )
    picked = tables.at_shares(tables.frame_of(rows, "gowalla"))
    got = dict(zip(picked["at"], picked["recall_at_20"], strict=True))
    assert got == {"≤ 2%": 0.1, "≤ 5%": 0.2, "≤ 10%": 0.3, "≤ 100%": 0.5}


def test_cells_are_mean_and_spread_and_empty_where_a_seed_is_missing() -> None:
    rows = rows_of(seed=[0, 1, 0], n_probes=[1, 1, 2], recall_at_20=[0.5, 0.7, 0.9])
    frame = tables.at_probes(tables.frame_of(rows, "gowalla"))
    table = tables.grid("A title", frame, "recall_at_20", tables.in_points)
    assert table.markdown() == (
        "A title\n\n"
        "| method | codes | bytes | refine | 1 | 2 |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| ours-8 | 8x8 | 9 |  | 0.6000 ± 0.2000 |  |\n"
    )


def test_enough_is_where_a_share_of_all_lists_is_come_to_first() -> None:
    rows = rows_of(
        seed=[0, 0, 0, 0, 1, 1],
        n_probes=[1, 2, 4, 64, 1, 64],
        items_scanned=[10.0, 20.0, 40.0, 1000.0, 30.0, 1000.0],
        recall_at_20=[0.2, 0.4, 0.6, 0.5, 0.5, 0.5],  # more than all lists find, on the way
    )
    enough = tables.at_enough(tables.frame_of(rows, "gowalla"), "recall_at_20")
    got = {(row["seed"], row["at"]): row["items"] for _, row in enough.iterrows()}
    assert got == {
        (0, "95%"): pytest.approx(20 + 20 * (0.475 - 0.4) / 0.2),
        (0, "99%"): pytest.approx(20 + 20 * (0.495 - 0.4) / 0.2),
        (1, "95%"): 30,  # one probe is enough
        (1, "99%"): 30,
    }


def test_kept_is_of_the_same_seed() -> None:
    rows = rows_of(
        variant=["plain", "plain", "ours-8", "ours-8"],
        family=["exact", "exact", "exact", "ours"],
        seed=[0, 1, 1, 1],
        n_probes=[0, 0, 0, 1],
        recall_at_20=[0.1, 0.8, 0.5, 0.4],
    )
    frame = tables.frame_of(rows, "gowalla")
    frame = frame.assign(
        of_plain=tables.kept(frame, "recall_at_20", "plain"),
        of_own=tables.kept(frame, "recall_at_20"),
    )
    ours = frame[frame["family"] == "ours"].iloc[0]
    assert (ours["of_plain"], ours["of_own"]) == (0.5, 0.8)
