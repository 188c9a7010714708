"""Judge every trained model, and write tables and pictures: ``python -m benchmarks.quality``.

Takes what ``python -m benchmarks.quality.training`` left in RESULTS; needs no TensorFlow, and for
ScaNN the current environment.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.quality.judge import judge_all
from benchmarks.quality.methods import SIZES
from benchmarks.quality.report import plot, report
from benchmarks.quality.trial import quality_folder
from workflows.comparison import save_rows


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="the quick trials")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        choices=SIZES,
        help="bytes an item of what is built afterwards; by default all, of quick trials 8",
    )
    parser.add_argument(
        "--queries", type=int, help="judge by so many of each trial's queries; by default all"
    )
    parser.add_argument("--again", action="store_true", help="judge anew what has been judged")
    options = parser.parse_args(arguments)
    if options.queries is not None and options.queries < 1:
        parser.error(f"--queries: expected at least 1, got {options.queries}")
    folder = quality_folder(options.results, options.quick)
    try:
        sizes = options.sizes or ((8,) if options.quick else SIZES)
        rows = judge_all(folder, sizes, n_queries=options.queries, again=options.again)
    except FileNotFoundError as error:
        sys.exit(str(error))
    save_rows(rows, folder / "rows.json")
    text = report(rows)
    (folder / "quality.md").write_text(text)
    print(text)
    tasks = dict.fromkeys(row["task"] for row in rows)
    for task in tasks:
        plot(rows, task, folder / f"{task}.png")
    print(f"Saved rows.json, quality.md and a picture a task in {folder}")


if __name__ == "__main__":
    main()
