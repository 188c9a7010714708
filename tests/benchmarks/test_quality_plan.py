"""What the quality benchmark trains, and what it leaves as it is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("merlin.models.tf", reason="Merlin is not in this environment")

from benchmarks.quality import training
from benchmarks.quality.jobs import WORKFLOWS
from benchmarks.quality.towers import TRUNK, branches, recipe, trunk_epochs, trunk_recipe
from benchmarks.quality.trial import Trial, TrialName, quality_folder, save_trial, write_json
from benchmarks.quality.trunk import FACTS, trunk_folder
from benchmarks.quality.variants import TASKS, variant_of
from tests.benchmarks.quality_trials import make_trial

NAME = TrialName("tutorial", "ours-8", 0)


def trained_by(told: dict[str, Any]) -> Trial:
    trial = make_trial("ours-8", 0, "tutorial")
    return replace(trial, name=NAME, facts={**trial.facts, "recipe": told})


def test_tasks_without_data_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[TrialName] = []
    monkeypatch.setattr(training, "_train", lambda name, *rest: trained.append(name) or True)
    training.main(["--variants", "plain", "--seeds", "4", "--results", str(tmp_path)])
    assert trained == [
        TrialName(task, variant, 4)
        for task in ("tutorial", "aliccp")
        for variant in (TRUNK, "plain")
    ]
    assert "gowalla: left out, as there is no gowalla/ in --data (none given)" in (
        capsys.readouterr().out
    )


def test_quick_trains_three_variants_from_one_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[TrialName] = []
    monkeypatch.setattr(training, "_train", lambda name, *rest: trained.append(name) or True)
    training.main(["--quick", "--tasks", "tutorial", "--results", str(tmp_path)])
    wanted = (TRUNK, "plain", "ours-8", "poeem-8")
    assert trained == [TrialName("tutorial", variant, 0) for variant in wanted]


def test_whole_trials_are_skipped_and_failures_named_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_trial(trained_by(recipe(NAME)), quality_folder(tmp_path, quick=False))
    trained: list[TrialName] = []
    monkeypatch.setattr(training, "_train", lambda name, *rest: trained.append(name))
    arguments = ["--tasks", "tutorial", "--variants", "plain", "ours-8", "--seeds", "0", "1"]
    with pytest.raises(SystemExit, match=r"5 trainings failed: tutorial trunk seed 0 \(validation"):
        training.main([*arguments, "--results", str(tmp_path)])
    assert [str(name) for name in trained] == [
        "tutorial trunk seed 0 (validation)",
        "tutorial plain seed 0 (validation)",
        "tutorial trunk seed 1 (validation)",
        "tutorial plain seed 1 (validation)",
        "tutorial ours-8 seed 1 (validation)",
    ]
    out = capsys.readouterr().out
    assert "3 of 6: tutorial ours-8 seed 0 (validation): there already" in out


def test_trunks_that_are_there_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trunk_folder(NAME, quality_folder(tmp_path, quick=False))
    folder.mkdir(parents=True)
    write_json(folder / FACTS, {"seconds": 1.0, "recipe": trunk_recipe(NAME)})
    trained: list[TrialName] = []
    monkeypatch.setattr(training, "_train", lambda name, *rest: trained.append(name) or True)
    arguments = ["--tasks", "tutorial", "--variants", "ours-8", "--seeds", "0"]
    training.main([*arguments, "--results", str(tmp_path)])
    assert trained == [NAME]


def test_a_trunk_of_another_recipe_is_refused(tmp_path: Path) -> None:
    folder = trunk_folder(NAME, quality_folder(tmp_path, quick=False))
    folder.mkdir(parents=True)
    told = trunk_recipe(NAME)
    told["trunk"]["epochs"] = 2
    write_json(folder / FACTS, {"seconds": 1.0, "recipe": told})
    with pytest.raises(SystemExit, match=re.escape("{'epochs': 1}, got {'epochs': 2} (trunk)")):
        training.main(["--tasks", "tutorial", "--results", str(tmp_path)])


def test_an_earlier_start_than_the_trunks_trains_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[TrialName] = []
    monkeypatch.setattr(training, "_train", lambda name, *rest: trained.append(name) or True)
    arguments = ["--tasks", "tutorial", "--variants", "ours-8:warmup=0.1", "--seeds", "0"]
    training.main([*arguments, "--results", str(tmp_path)])
    assert trained == [TrialName("tutorial", "ours-8:warmup=0.1", 0)]
    assert recipe(trained[0])["trunk"] == {"epochs": 0}


@pytest.mark.parametrize(
    ("task", "epochs", "branching", "whole"),
    [
        ("tutorial", 1, 0.35, 0.3),
        ("movielens-1m", 4, 0.7, 0.6),
        ("gowalla", 4, 0.7, 0.6),
        ("aliccp", 2, 0.5, 0.4),
    ],
)
def test_trunks_end_with_the_last_whole_epoch_before_the_start(
    task: str, epochs: int, branching: float, whole: float
) -> None:
    assert trunk_epochs(task) == epochs
    assert branches(variant_of("plain"), task)
    assert branches(variant_of(f"ours-8:warmup={branching}"), task)
    assert not branches(variant_of(f"ours-8:warmup={whole}"), task)


@pytest.mark.parametrize("task", WORKFLOWS)
def test_a_task_scores_as_its_workflow_does(task: str) -> None:
    assert WORKFLOWS[task].new_quantizer().params.metric == TASKS[task].metric


def test_every_task_has_a_workflow() -> None:
    assert [*WORKFLOWS] == [*TASKS]


def test_a_start_after_a_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a share of the training, .* got 7"):
        branches(variant_of("ours-8:warmup=7"), "gowalla")


@pytest.mark.parametrize("told", ["comitment=1", "n_lists=4", "pq_dim=4"])
def test_options_that_no_quantizer_has_are_refused(tmp_path: Path, told: str) -> None:
    arguments = ["--tasks", "tutorial", "--variants", f"ours-8:{told}"]
    with pytest.raises(SystemExit, match=rf"expected options among .*; got {told.split('=')[0]}"):
        training.main([*arguments, "--results", str(tmp_path)])


def test_options_are_part_of_the_recipe() -> None:
    told = recipe(TrialName("gowalla", "ours-8:commitment=0.5,rotation=false", 0))["quantizer"]
    assert (told["commitment"], told["rotation"], told["float_share"]) == (0.5, False, 0.5)


def test_test_pairs_are_not_for_this_command(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--part test: expected benchmarks\.quality\.final"):
        training.main(["--part", "test", "--results", str(tmp_path)])


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("quantizer", {"balance": 3.0}, "{'balance': 1.0}, got {'balance': 3.0} (quantizer)"),
        ("workflow", {"EPOCHS": 99}, "{'EPOCHS': 3}, got {'EPOCHS': 99} (workflow)"),
    ],
)
def test_a_trial_of_another_recipe_is_refused(
    tmp_path: Path, part: str, change: dict[str, Any], told: str
) -> None:
    told_then = recipe(NAME)
    told_then[part] |= change
    save_trial(trained_by(told_then), quality_folder(tmp_path, quick=False))
    with pytest.raises(SystemExit, match=re.escape(f"expected a training with {told}; remove")):
        training.main(["--tasks", "tutorial", "--results", str(tmp_path)])


def test_a_trial_without_its_recipe_is_refused(tmp_path: Path) -> None:
    save_trial(trained_by({}), quality_folder(tmp_path, quick=False))
    with pytest.raises(SystemExit, match="remove the folder to train it anew"):
        training.main(["--tasks", "tutorial", "--results", str(tmp_path)])


def test_a_training_that_fails_shows_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.sys, "executable", "false")
    arguments = ["--tasks", "tutorial", "--variants", "plain", "--seeds", "0"]
    with pytest.raises(SystemExit, match="2 trainings failed"):
        training.main([*arguments, "--results", str(tmp_path)])
    assert "tutorial plain seed 0 (validation): failed with exit code 1" in capsys.readouterr().out
