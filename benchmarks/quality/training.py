"""Train the models of the quality benchmark, each once; what is there already is skipped.

python -m benchmarks.quality.training [--tasks ...] [--variants ...] [--seeds ...] [--data FOLDER]

Runs where TensorFlow is. ``--data`` holds ``ml-1m/`` and ``gowalla/``; tasks without their data are
left out, and it says so. A variant may have options of its quantizer after it, for trials:
``--variants ours-8:commitment=0.5,float_share=0.25 ours-8:warmup=0.5``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.parts import PARTS, TEST, VALIDATION
from benchmarks.quality.towers import TRUNK, branches, recipe, trunk_recipe
from benchmarks.quality.trial import TrialName, quality_folder, read_facts
from benchmarks.quality.trunk import read_trunk_facts, trunk_folder
from benchmarks.quality.variants import QUICK_VARIANTS, TASKS, VARIANTS, variant_of

LOG = "training.log"
SHOWN_LINES = 12


@dataclass(frozen=True)
class Setting:
    """Where things lie."""

    results: Path
    """The quality folder."""
    data: Path | None
    """Holds a folder a task."""
    quick: bool


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; exits with 1 where a training failed, after all the others."""
    options = _parser().parse_args(arguments)
    if options.part == TEST:
        sys.exit("--part test: expected benchmarks.quality.final, which alone reads test pairs")
    names = [
        TrialName(task, variant, seed, options.part)
        for task in options.tasks
        if has_data(task, options.data)
        for seed in (options.seeds[:1] if options.quick else options.seeds)
        for variant in options.variants or (QUICK_VARIANTS if options.quick else VARIANTS)
    ]
    results = quality_folder(options.results, options.quick)
    try:
        train_all(names, Setting(results, options.data, options.quick))
    except ValueError as error:
        sys.exit(str(error))


def train_all(names: list[TrialName], setting: Setting) -> None:
    """Train what is not there yet, each trunk before what leaves it.

    Raises ``ValueError`` for variants that are none and for trials of another recipe, before any
    training; exits where a training failed, after all the others.
    """
    for name in names:
        refuse_another_recipe(name, setting.results)
    todo = list(with_trunks(names))
    failed = []
    for number, name in enumerate(todo, 1):
        title = f"{number} of {len(todo)}: {name}"
        if facts_of(name, setting.results) is not None:  # now, as another run may have made it
            print(f"{title}: there already", flush=True)
            continue
        print(title, flush=True)
        if not _train(name, setting):
            failed.append(name)
    if failed:
        sys.exit(f"{len(failed)} trainings failed: {', '.join(map(str, failed))}")


def with_trunks(names: list[TrialName]) -> Iterator[TrialName]:
    """Each trial, and before the first that leaves a trunk the trunk."""
    trunks = set()
    for name in names:
        trunk = replace(name, variant=TRUNK)
        if trunk not in trunks and branches(variant_of(name.variant), name.task):
            trunks.add(trunk)
            yield trunk
        yield name


def facts_of(name: TrialName, results: Path) -> dict[str, Any] | None:
    """Of a trial or a trunk; None where it is not whole."""
    if name.variant == TRUNK:
        return read_trunk_facts(trunk_folder(name, results))
    return read_facts(name.folder(results))


def has_data(task: str, data: Path | None) -> bool:
    """Whether there is what a task is made from; if not, says so."""
    needed = TASKS[task].data
    if needed is None or (data is not None and (data / needed).is_dir()):
        return True
    print(f"{task}: left out, as there is no {needed}/ in --data {data or '(none given)'}")
    return False


def refuse_another_recipe(name: TrialName, results: Path) -> None:
    """``ValueError`` where a trial or its trunk was trained by another recipe than there is now."""
    told = ((name.folder(results), recipe(name), read_facts(name.folder(results))),)
    if branches(variant_of(name.variant), name.task):
        folder = trunk_folder(name, results)
        told += ((folder, trunk_recipe(name), read_trunk_facts(folder)),)
    for folder, expected, facts in told:
        if facts is None:
            continue
        for part, settings in expected.items():
            others = facts.get("recipe", {}).get(part, {})
            differing = {
                key for key in {*settings, *others} if settings.get(key) != others.get(key)
            }
            if differing:
                raise ValueError(
                    f"{folder}: expected a training with {_of(settings, differing)}, "
                    f"got {_of(others, differing)} ({part}); remove the folder to train it anew"
                )


def _of(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: settings.get(name) for name in sorted(names)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, default=VALIDATION, help="test: final's alone")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument(
        "--variants", nargs="+", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; with options"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="holds ml-1m/ and gowalla/")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="little data, one seed, 3 variants")
    return parser


def _train(name: TrialName, setting: Setting) -> bool:
    """Train in a process of its own; on failure print the end of what it wrote."""
    command = [sys.executable, "-m", "benchmarks.quality.towers", "--results", setting.results]
    command += ["--task", name.task, "--variant", name.variant, "--seed", str(name.seed)]
    command += ["--part", name.part]
    needed = TASKS[name.task].data
    if needed is not None:
        command += ["--data", setting.data / needed]
    if setting.quick:
        command.append("--quick")
    is_trunk = name.variant == TRUNK
    folder = trunk_folder(name, setting.results) if is_trunk else name.folder(setting.results)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("w") as written:
        code = subprocess.run(command, stdout=written, stderr=subprocess.STDOUT).returncode
    facts = facts_of(name, setting.results)
    if code or facts is None:
        print("\n".join((folder / LOG).read_text().splitlines()[-SHOWN_LINES:]))
        print(f"{name}: failed with exit code {code}; all it wrote is in {folder / LOG}")
        return False
    print(f"    trained in {facts['seconds']:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
