"""Train the models of the quality benchmark, each once; what is there already is skipped.

python -m benchmarks.quality.training [--tasks ...] [--variants ...] [--seeds ...] [--data FOLDER]

Runs where TensorFlow is. ``--data`` holds ``ml-1m/`` and ``gowalla/``; tasks without their data are
left out, and it says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.quality.towers import recipe
from benchmarks.quality.trial import TrialName, quality_folder, read_facts
from benchmarks.quality.variants import QUICK_VARIANTS, TASKS, VARIANTS

LOG = "training.log"
SHOWN_LINES = 12


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; exits with 1 where a training failed, after all the others."""
    options = _parser().parse_args(arguments)
    results = quality_folder(options.results, options.quick)
    names = [
        TrialName(task, variant, seed)
        for task in options.tasks
        if _has_data(task, options.data)
        for seed in (options.seeds[:1] if options.quick else options.seeds)
        for variant in options.variants or (QUICK_VARIANTS if options.quick else VARIANTS)
    ]
    _refuse_others(names, results)
    failed = []
    for number, name in enumerate(names, 1):
        title = f"{number} of {len(names)}: {name}"
        if read_facts(name.folder(results)) is not None:  # now, as another run may have made it
            print(f"{title}: there already", flush=True)
            continue
        print(title, flush=True)
        if not _train(name, results, options.data, options.quick):
            failed.append(name)
    if failed:
        sys.exit(f"{len(failed)} trainings failed: {', '.join(map(str, failed))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="holds ml-1m/ and gowalla/")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="little data, one seed, 3 variants")
    return parser


def _has_data(task: str, data: Path | None) -> bool:
    needed = TASKS[task].data
    if needed is None or (data is not None and (data / needed).is_dir()):
        return True
    print(f"{task}: left out, as there is no {needed}/ in --data {data or '(none given)'}")
    return False


def _refuse_others(names: list[TrialName], results: Path) -> None:
    """Exit where a trial was trained by another recipe than its variant has now."""
    for name in names:
        facts = read_facts(name.folder(results))
        if facts is None:
            continue
        expected, got = recipe(name), facts.get("recipe", {})
        for part, settings in expected.items():
            others = got.get(part, {})
            differing = {
                key for key in {*settings, *others} if settings.get(key) != others.get(key)
            }
            if differing:
                sys.exit(
                    f"{name.folder(results)}: expected a trial trained with "
                    f"{_of(settings, differing)}, got {_of(others, differing)} ({part}); "
                    "remove the folder to train it anew"
                )


def _of(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: settings.get(name) for name in sorted(names)}


def _train(name: TrialName, results: Path, data: Path | None, quick: bool) -> bool:
    """Train in a process of its own; on failure print the end of what it wrote."""
    command = [sys.executable, "-m", "benchmarks.quality.towers", "--results", results]
    command += ["--task", name.task, "--variant", name.variant, "--seed", str(name.seed)]
    needed = TASKS[name.task].data
    if needed is not None:
        command += ["--data", data / needed]
    if quick:
        command.append("--quick")
    log = name.folder(results) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as written:
        code = subprocess.run(command, stdout=written, stderr=subprocess.STDOUT).returncode
    facts = read_facts(name.folder(results))
    if code or facts is None:
        print("\n".join(log.read_text().splitlines()[-SHOWN_LINES:]))
        print(f"{name}: failed with exit code {code}; all it wrote is in {log}", flush=True)
        return False
    print(f"    trained in {facts['seconds']:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
