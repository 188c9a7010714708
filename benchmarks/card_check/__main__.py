"""Everything that a card can be asked, in a few minutes: ``python -m benchmarks.card_check``.

Correctness of every path first, then streams and other libraries' arrays, then times at 570,000 and
4.3M items, the contract's tests on the card, compute-sanitizer, Nsight Compute and other libraries'
searches, each where it is installed. Each step is a process of its own with a time limit; a line of
``results/card_check.jsonl`` is written before and after each check, so that a run that is cut off
leaves what it had; a summary is printed, and lies beside it. Needs CuPy, NumPy and pytest, and runs
from a checkout that is not installed.

``--emulate`` runs all of it on the emulated device, on tiny sizes, and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.card_check.lines import Lines, read_last_run
from benchmarks.card_check.parent import run_steps
from benchmarks.card_check.steps import STEPS
from benchmarks.card_check.summary import summarize, went_wrong


def main(arguments: list[str] | None = None) -> int:
    """Run and sum up; 1 where a check failed, died or hung."""
    options = _parse(arguments)
    if options.summary is None:
        name = "card_check_emulated.jsonl" if options.emulate else "card_check.jsonl"
        path = options.output or Path("results") / name
        run = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        steps = [step for step in STEPS if step.name in options.steps]
        run_steps(steps, Lines(path, run), options.minutes, options.logs, emulate=options.emulate)
    else:
        path = options.summary
    lines = read_last_run(path)
    text = summarize(lines)
    path.with_suffix(".txt").write_text(text + "\n")
    print(text)
    return int(went_wrong(lines))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card_check", description=__doc__)
    names = [step.name for step in STEPS]
    parser.add_argument("--minutes", type=float, default=5, help="the most that all may take")
    parser.add_argument("--steps", nargs="+", choices=names, default=names)
    parser.add_argument("--output", type=Path, help="default: results/card_check.jsonl")
    logs = Path("results/card_check_logs")
    parser.add_argument("--logs", type=Path, default=logs, help="output of tests and tools")
    parser.add_argument("--emulate", action="store_true", help="tiny, on the CPU; no times")
    parser.add_argument("--summary", type=Path, help="sum an existing file up, and run nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
