"""What the quality benchmark trains, and what it leaves as it is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("merlin.models.tf", reason="Merlin is not in this environment")

from benchmarks.quality import training
from benchmarks.quality.towers import recipe
from benchmarks.quality.trial import Trial, TrialName, quality_folder, save_trial
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
    assert trained == [TrialName("tutorial", "plain", 4)]
    assert "gowalla: left out, as there is no gowalla/ in --data (none given)" in (
        capsys.readouterr().out
    )


def test_quick_trains_three_variants_from_one_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[TrialName] = []
    monkeypatch.setattr(training, "_train", lambda name, *rest: trained.append(name) or True)
    training.main(["--quick", "--tasks", "tutorial", "--results", str(tmp_path)])
    assert trained == [TrialName("tutorial", v, 0) for v in ("plain", "ours-8", "poeem-8")]


def test_whole_trials_are_skipped_and_failures_named_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_trial(trained_by(recipe(NAME)), quality_folder(tmp_path, quick=False))
    trained: list[TrialName] = []
    monkeypatch.setattr(training, "_train", lambda name, *rest: trained.append(name))
    arguments = ["--tasks", "tutorial", "--variants", "plain", "ours-8", "--seeds", "0", "1"]
    with pytest.raises(SystemExit, match="3 trainings failed: tutorial plain seed 0, "):
        training.main([*arguments, "--results", str(tmp_path)])
    assert [str(name) for name in trained] == [
        "tutorial plain seed 0",
        "tutorial plain seed 1",
        "tutorial ours-8 seed 1",
    ]
    assert "2 of 4: tutorial ours-8 seed 0: there already" in capsys.readouterr().out


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
    with pytest.raises(
        SystemExit, match=re.escape(f"expected a trial trained with {told}; remove")
    ):
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
    with pytest.raises(SystemExit, match="1 trainings failed"):
        training.main([*arguments, "--results", str(tmp_path)])
    assert "tutorial plain seed 0: failed with exit code 1" in capsys.readouterr().out
