"""The card check: whole on the emulated device, and whatever a card does to a process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.card_check.__main__ import main
from benchmarks.card_check.lines import Lines, read_last_run
from benchmarks.card_check.parent import REPOSITORY, run_steps
from benchmarks.card_check.profiler import read_launches
from benchmarks.card_check.steps import STEPS, Step
from benchmarks.card_check.summary import summarize, went_wrong
from benchmarks.card_check.targets import targets
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER

pytestmark = pytest.mark.once

MODULE = "tests.benchmarks.card_steps"


def statuses(path: Path) -> dict[str, str]:
    """Of every check and every step of the last run."""
    return {
        line.get("name", line["step"]): line["status"].split(" (")[0]
        for line in read_last_run(path)
        if "status" in line
    }


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
def test_emulated_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    places = ["--output", str(path), "--logs", str(tmp_path / "logs")]
    assert main(["--emulate", "--minutes", "3", *places]) == 0
    lines = read_last_run(path)
    steps = {line["step"]: line["status"] for line in lines if line["event"] == "step"}
    assert steps == {step.name: "done" for step in STEPS}
    ended = [line["status"] for line in lines if line["event"] == "end"]
    assert set(ended) == {"passed", "measured", "skipped"}
    assert ended.count("passed") + ended.count("measured") > 20
    printed = capfd.readouterr().out
    assert "EMULATED, nothing was measured" in printed
    assert "batch 12, 8 probes, k 10, bulk: measured" in printed
    assert main(["--summary", str(path)]) == 0
    assert capfd.readouterr().out.strip() == summarize(lines)
    assert path.with_suffix(".txt").read_text().strip() == summarize(lines)


def test_what_ends_a_process_ends_one_check(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = Lines(tmp_path / "lines.jsonl", "a run")
    steps = [Step("fine-crash-wrong-dead-fine", MODULE, 60), Step("fine", MODULE, 60)]
    run_steps(steps, lines, 2, tmp_path, emulate=True)
    assert statuses(lines.path) == {
        "0 fine": "passed",
        "1 crash": "died",
        "2 wrong": "failed",
        "3 dead": "died",
        "4 fine": "passed",
        steps[0].name: "done",
        "fine": "done",
    }
    assert went_wrong(lines.read())
    text = summarize(lines.read())
    assert "1 crash: died (SIGABRT)" in text
    assert "2 wrong: failed: ValueError: not what was expected" in text
    assert "3 dead: died (the card refuses all)" in text
    assert "fine                         2 passed" not in text


def test_what_hangs_is_stopped(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines.jsonl", "a run")
    steps = [Step("fine-hang-fine-limited", MODULE, 60), Step("fine-hang", MODULE, 4)]
    run_steps(steps, lines, 2, tmp_path, emulate=True)
    by_step = {
        step.name: [
            line["status"]
            for line in lines.read()
            if line["step"] == step.name and "status" in line
        ]
        for step in steps
    }
    # Where a check has a limit the others follow; else the step ends.
    assert by_step[steps[0].name] == ["passed", "timed out", "passed", "done"]
    assert by_step[steps[1].name] == ["passed", "timed out", "timed out"]
    assert "fine-hang (step): timed out" in summarize(lines.read())


def test_what_has_no_time_is_not_run(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines.jsonl", "a run")
    run_steps([Step("fine", MODULE, 60)], lines, 0, tmp_path, emulate=True)
    assert statuses(lines.path) == {"fine": "not run"}
    assert not went_wrong(lines.read())
    assert "fine         not run" in summarize(lines.read())


def test_a_step_that_cannot_be_loaded(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines.jsonl", "a run")
    run_steps([Step("gone", "benchmarks.no_such", 60)], lines, 1, tmp_path, emulate=True)
    assert statuses(lines.path) == {"gone": "died"}
    assert "No module named 'benchmarks.no_such'" in summarize(lines.read())


def test_a_parent_that_is_killed_leaves_its_lines_and_no_process(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    program = (
        "from pathlib import Path\n"
        "from benchmarks.card_check.lines import Lines\n"
        "from benchmarks.card_check.parent import run_steps\n"
        "from benchmarks.card_check.steps import Step\n"
        f"steps = [Step(name, {MODULE!r}, 60) for name in ('fine-hang', 'fine')]\n"
        f"run_steps(steps, Lines(Path({str(path)!r}), 'a run'), 2, Path('.'), emulate=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY)
    began = wait_for_line(path, "1 hang")
    process.kill()
    process.wait()
    with path.open("a") as file:
        file.write('{"run": "a run", "st')  # what a machine that is taken away leaves
    lines = read_last_run(path)
    assert lines[-1] == began
    text = summarize(lines)
    assert "fine-hang: cut off during 1 hang" in text
    assert "fine         not run" in text
    assert "1 passed" in text
    assert went_wrong(lines)
    assert_no_process_of(path)


def wait_for_line(path: Path, name: str) -> dict[str, object]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for line in read_last_run(path) if path.exists() else []:
            if line.get("name") == name:
                return line
        time.sleep(0.1)
    raise AssertionError(f"no line of {name}")


def assert_no_process_of(path: Path) -> None:
    """None has ``path`` among its arguments, a moment later."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = []
        for folder in Path("/proc").iterdir():
            try:
                found += [folder.name] if str(path) in (folder / "cmdline").read_text() else []
            except (OSError, UnicodeDecodeError):
                continue
        if not found:
            return
        time.sleep(0.2)
    for number in found:
        os.kill(int(number), signal.SIGKILL)
    raise AssertionError(f"still running: {found}")


def test_a_later_run_is_summed_up_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for run in ("first", "second"):
        Lines(path, run).write(step="run", event="start", steps=[run])
    assert [line["run"] for line in read_last_run(path)] == ["second"]


ROW = {
    **{"backend": "gpu", "peer": None, "n_items": 4_300_000, "n_probes": 8, "batch": 16384},
    **{"kind": "clustered", "dim": 64, "code_bytes": 16, "pq_bits": 8, "n_lists": 4096},
    **{
        "k": 100,
        "seconds": 1e-3,
        "recall": 0.8,
        "error": None,
        "frame_overhead": None,
        "ratio_to_ours": 1.0,
    },
}


def test_targets_are_judged_at_equal_recall(tmp_path: Path) -> None:
    peer = {**ROW, "backend": "cuvs ivf_pq (fp16)", "peer": "cuvs"}
    rows = [
        ROW,
        {**peer, "seconds": 2e-3, "recall": 0.7},  # faster, and finds less
        {**peer, "seconds": 4e-3, "recall": 0.81, "n_probes": 16},
        {**peer, "seconds": 5e-3, "recall": 0.8},
        {**peer, "backend": "torch exact (bf16)", "seconds": 0.03, "recall": 1.0},
    ]
    figures = [target.figure([], rows) for target in targets()]
    assert figures == [pytest.approx(4), None, pytest.approx(4), *[None] * 4, pytest.approx(30)]
    lines = Lines(tmp_path / "lines.jsonl", "a run")
    lines.write(step="run", event="start", steps=["peers"])
    lines.write(step="peers", event="end", name="x", status="measured", rows=rows)
    text = summarize(lines.read())
    assert text.count("  met ") == 3
    assert "20 ×: 30.0 ×" in text


def test_launches_of_the_profiler() -> None:
    output = [
        "==PROF== Connected",
        '"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"',
        '"0","7","scan","GPU Speed Of Light","Duration","us","1,234.5"',
        '"0","7","scan","Occupancy","Achieved Occupancy","%","61.2"',
        '"0","7","scan","Occupancy","Another","%","1"',
        '"1","7","choose_lists","GPU Speed Of Light","Duration","us","20"',
    ]
    assert read_launches(output) == [
        {"kernel": "scan", "Duration": "1,234.5 us", "Achieved Occupancy": "61.2 %"},
        {"kernel": "choose_lists", "Duration": "20 us"},
    ]
    assert read_launches(["no table"]) == []


def test_lines_are_whole_json(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "folder" / "lines.jsonl", "a run")
    lines.write(step="a", event="end", number=3, path=tmp_path)
    assert json.loads(lines.path.read_text())["path"] == str(tmp_path)
