"""The quality benchmark from its rows on: judging, tables, the command, and what is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")

from benchmarks.quality import __main__ as command
from benchmarks.quality import judge, methods, report, tables
from benchmarks.quality.trial import (
    Trial,
    quality_folder,
    save_trial,
)
from merlin_poeem.evaluate import agreement, recall_at_k
from tests.benchmarks.quality_trials import N_ITEMS, N_LISTS, N_QUERIES, make_trial, one_thread

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


@pytest.fixture(scope="module")
def trial() -> Trial:
    return make_trial()


# --- judging -------------------------------------------------------------------------------------


def test_rows(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "SOURCES", ())
    rows = judge.judge(trial)
    exact, *others = rows
    assert exact["method"] == "exact of ours-8 vectors"
    assert (exact["n_probes"], exact["items_scanned"]) == (0, N_ITEMS)
    assert exact["agreement_at_100"] == 1
    ours = [row for row in others if row["method"] == "ours-8"]
    assert [row["n_probes"] for row in ours][-1] == N_LISTS
    assert ours[-1]["items_scanned"] == N_ITEMS
    found = methods.learned(trial, trial.index).search(1)
    assert ours[0]["recall_at_20"] == recall_at_k(found, trial.relevance.lists, 20)
    assert ours[0]["agreement_at_100"] == pytest.approx(
        agreement(found, methods.exact(trial).search(0), 100)
    )
    assert json.loads(json.dumps(rows)) == rows


def test_only_the_sources_get_baselines() -> None:
    names = {row["method"] for row in judge.judge(make_trial("poeem-8"), sizes=(8,))}
    learned = {"poeem-8", "poeem-8, by inner product", "lists of poeem-8"}
    assert names == {"exact of poeem-8 vectors"} | learned


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the whole command on trials of two seeds and of two tasks."""
    results = tmp_path_factory.mktemp("results")
    folder = quality_folder(results, quick=True)
    for variant in ("plain", "without-balance", "ours-8"):
        save_trial(make_trial(variant, 0), folder)
    save_trial(make_trial("without-balance", 1), folder)
    save_trial(make_trial("poeem-8", 0, "tutorial"), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "SOURCES", ("plain",))  # others would take long
        command.main(["--quick", "--results", str(results)])
    return results


def test_command_writes_rows_tables_and_pictures(judged: Path) -> None:
    folder = quality_folder(judged, quick=True)
    saved = json.loads((folder / "rows.json").read_text())
    assert saved["versions"]["numpy"] == np.__version__
    assert {row["task"] for row in saved["rows"]} == {"movielens-1m", "tutorial"}
    text = (folder / "quality.md").read_text()
    assert f"## movielens-1m\n\n400 items, {N_QUERIES} queries, seeds 0, 1." in text
    for task in ("tutorial", "movielens-1m"):
        assert (folder / f"{task}.png").read_bytes().startswith(b"\x89PNG")


def test_judged_trials_are_not_judged_again_unless_asked(
    judged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quality_folder(judged, quick=True)
    before = json.loads((folder / "rows.json").read_text())["rows"]
    monkeypatch.setattr(judge, "judge", lambda trial, sizes: [{"task": str(trial.name)}])
    assert judge.judge_all(folder, (8,)) == before
    assert capsys.readouterr().out.count("judged already") == 5
    monkeypatch.setattr(judge, "write_json", lambda path, values: None)
    assert judge.judge_all(folder, (8,), again=True) == before
    assert "judged already" not in capsys.readouterr().out
    judged_by: list[int] = []
    monkeypatch.setattr(judge, "judge", lambda trial, sizes: judged_by.append(len(trial.queries)))
    assert judge.judge_all(folder, (8,), n_queries=7) == before
    assert judged_by == [7] * 5
    assert "judged already" not in capsys.readouterr().out


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


def test_command_without_trials_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected trials, got none; run .*training first"):
        command.main(["--results", str(tmp_path)])


# --- tables --------------------------------------------------------------------------------------


def rows_of(**columns: list) -> list[dict]:
    """Rows of one method with 1000 items, overridden by ``columns``."""
    n = len(next(iter(columns.values())))
    fixed = {
        "task": "gowalla", "variant": "ours-8", "seed": 0, "method": "ours-8", "form": "8x8",
        "bytes_per_item": 8.0, "n_items": 1000, "n_probes": 1, "items_scanned": 10.0,
        "recall_at_20": 0.5,
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
        "| method | codes | bytes | 1 | 2 |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| ours-8 | 8x8 | 8 | 0.6000 ± 0.2000 |  |\n"
    )


def test_kept_is_of_the_same_seed() -> None:
    exact = ["exact of plain vectors", "exact of plain vectors", "exact of ours-8 vectors"]
    rows = rows_of(
        variant=["plain", "plain", "ours-8", "ours-8"],
        method=[*exact, "ours-8"],
        seed=[0, 1, 1, 1],
        n_probes=[0, 0, 0, 1],
        recall_at_20=[0.1, 0.8, 0.5, 0.4],
    )
    frame = tables.frame_of(rows, "gowalla")
    frame = frame.assign(
        of_plain=tables.kept(frame, "recall_at_20", "plain"),
        of_own=tables.kept(frame, "recall_at_20"),
    )
    ours = frame[frame["method"] == "ours-8"].iloc[0]
    assert (ours["of_plain"], ours["of_own"]) == (0.5, 0.8)


def test_report_sets_ablations_apart(judged: Path) -> None:
    rows = json.loads((quality_folder(judged, quick=True) / "rows.json").read_text())["rows"]
    text = report.report([row for row in rows if row["task"] == "movielens-1m"])
    before, after = text.split("Ablations\n")
    assert "| without-balance" not in before.split("`recall_at_20` by n_probes")[1]
    assert "| without-balance" in after
    assert "| k-means lists of plain vectors" in after.split("Lists only")[1]


def test_report_of_what_there_is(tmp_path: Path) -> None:
    rows = judge.judge(make_trial("ours-4"))
    assert "Ablations" not in report.report(rows)
    report.plot(rows, "movielens-1m", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
