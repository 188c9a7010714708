"""Read the test pairs, once, for what was chosen: the only command that does.

python -m benchmarks.quality.final train [--data FOLDER]   # where TensorFlow is
python -m benchmarks.quality.final judge                   # where ScaNN is

Needs ``chosen.json`` of ``benchmarks.quality.choice``. The first call writes ``test_read.json``
with its digest; once that is there, other choices are refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.quality.afterwards import FAMILIES, Way
from benchmarks.quality.choice import Choice
from benchmarks.quality.judge import PLAIN, Plan, judge_all
from benchmarks.quality.paired import paired_rows
from benchmarks.quality.parts import TEST
from benchmarks.quality.permit import CHOSEN, Permit
from benchmarks.quality.report import plot, report
from benchmarks.quality.trial import Trial, TrialName, quality_folder
from benchmarks.quality.variants import TASKS
from workflows.comparison import save_rows

ROWS = "rows.json"


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    options = _parser().parse_args(arguments)
    folder = quality_folder(options.results, options.quick)
    try:
        permit = Permit.begin(folder)
        choices = json.loads((folder / CHOSEN).read_text())["choices"]
        if options.step == "train":
            train(choices, folder, options.data, options.quick, options.seeds)
        else:
            judge(choices, folder, permit, options.queries)
    except (PermissionError, FileNotFoundError, ValueError) as error:
        sys.exit(str(error))


def train(
    choices: list[Choice],
    folder: Path,
    data: Path | None,
    quick: bool,
    seeds: list[int] | None = None,
) -> None:
    """The chosen variants and the plain towers, as trials of the test part."""
    from benchmarks.quality.training import Setting, has_data, train_all

    names = [name for name in names_of(choices, seeds) if has_data(name.task, data)]
    train_all(names, Setting(folder, data, quick))


def names_of(choices: list[Choice], seeds: list[int] | None = None) -> list[TrialName]:
    """A trial of the test part for each chosen variant and seed; None: those it was chosen by."""
    names = {
        TrialName(choice["task"], variant, seed, TEST)
        for choice in choices
        for seed in seeds or choice["seeds"]
        for variant in (PLAIN, choice["variant"])
    }
    tasks, plain_last = list(TASKS), lambda name: name.variant != PLAIN
    return sorted(names, key=lambda n: (tasks.index(n.task), n.seed, plain_last(n), n.variant))


def judge(choices: list[Choice], folder: Path, permit: Permit, n_queries: int | None) -> None:
    """Rows, paired differences, tables and pictures of the test part."""
    plan = plan_of(choices, permit)
    rows = judge_all(folder, plan, part=TEST, permit=permit, n_queries=n_queries)
    save_rows(rows, folder / ROWS)
    paired = paired_rows(choices, rows, folder)
    text = report(rows, choices, paired)
    (folder / "quality.md").write_text(text)
    print(text)
    for task in dict.fromkeys(row["task"] for row in rows):
        plot(rows, task, folder / f"{task}.png")
    print(f"Saved {ROWS}, quality.md and a picture a task in {folder}")


def plan_of(choices: list[Choice], permit: Permit) -> Plan:
    """What is built from the plain vectors: what was chosen for any second look, each once."""

    def chosen(trial: Trial) -> Iterator[Way]:
        of_task = (c for c in choices if c["task"] == trial.name.task and c["family"] in FAMILIES)
        ways = (Way(choice["family"], choice["size"], choice["knobs"]) for choice in of_task)
        yield from {f"{way} {way.size}": way for way in ways}.values()

    return Plan(chosen, at_all_probes=True, how={"chosen_sha256": permit.digest})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=("train", "judge"))
    parser.add_argument("--data", type=Path, help="holds ml-1m/ and gowalla/")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="the quick trials")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="train these; else those that each was chosen by"
    )
    parser.add_argument("--queries", type=int, help="judge by so many of each trial's queries")
    return parser


if __name__ == "__main__":
    main()
