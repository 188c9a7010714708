"""Choose by the validation part what the test pairs are read for: ``chosen.json``.

python -m benchmarks.quality.choice [--results FOLDER] [--quick]

The rule, for each task, family, size in bytes and second look: of what scans no more than the
task's share of items, the highest mean over seeds of the task's chief metric wins. What comes
within ``MARGIN`` of it is as good; of those the one that differs in the fewest settings from the
family's default is taken, and of equally many the better one. Only what was tried on the same seeds
takes part: the most that any of its family was tried on, of equally many the lowest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.quality.afterwards import FAMILIES, SIZES, size_of
from benchmarks.quality.judge import Row, judge_all, to_choose
from benchmarks.quality.methods import OBJECTIVE_OF_POEEM, OURS
from benchmarks.quality.permit import CHOSEN, TEST_READ
from benchmarks.quality.tables import Table, in_points
from benchmarks.quality.trial import quality_folder, write_json
from benchmarks.quality.variants import TASKS
from workflows.comparison import save_rows, versions

MARGIN = 0.0005
CHOSEN_AMONG = (OURS, OBJECTIVE_OF_POEEM, *FAMILIES)
Choice = dict[str, Any]
VALIDATION_ROWS, TRIED = "validation.json", "validation.md"


def choose(rows: Iterable[Row]) -> list[Choice]:
    """The choices, by task, size, second look and family."""
    groups: dict[tuple[str, int, int, str], list[Row]] = {}
    for row in rows:
        size = size_of(row["bytes_per_item"])
        if row["family"] in CHOSEN_AMONG and size is not None:
            key = (row["task"], size, row["refine"], row["family"])
            groups.setdefault(key, []).append(row)
    return [_choice(*key, groups[key]) for key in sorted(groups)]


def _choice(task: str, size: int, refine: int, family: str, rows: list[Row]) -> Choice:
    metric = TASKS[task].metrics[0]
    tried: dict[str, list[Row]] = {}
    for row in rows:
        tried.setdefault(identity(row), []).append(row)
    seeds = {name: sorted(row["seed"] for row in of_one) for name, of_one in tried.items()}
    most = min(seeds.values(), key=lambda of_one: (-len(of_one), of_one))
    whole = {name: of_one for name, of_one in tried.items() if seeds[name] == most}
    means = {name: _mean(of_one, metric) for name, of_one in whole.items()}
    best = max(means.values())
    good = [name for name in means if means[name] >= best - MARGIN]
    name = min(good, key=lambda name: (len(whole[name][0]["knobs"]), -means[name]))
    first = whole[name][0]
    return {
        "task": task,
        "size": size,
        "refine": refine,
        "family": family,
        "name": name,
        "variant": first["variant"],
        "form": first["form"],
        "knobs": first["knobs"],
        "metric": metric,
        "validation": means[name],
        "best_validation": best,
        "seeds": most,
        "tried": {one: _mean(of_one, metric) for one, of_one in sorted(whole.items())},
        "left_out": sorted(set(tried) - set(whole)),
    }


def identity(row: Row) -> str:
    """Of what is built: rows of several seeds have the same."""
    return f"{row['variant']} {row['form']} {json.dumps(row['knobs'], sort_keys=True)}"


def is_of(row: Row, choice: Choice) -> bool:
    """Whether a row is of what was chosen for its second look."""
    same = ("task", "family", "variant", "form", "knobs", "refine")
    return all(row[key] == choice[key] for key in same)


def _mean(rows: list[Row], metric: str) -> float:
    return sum(row[metric] for row in rows) / len(rows)


def main(arguments: list[str] | None = None) -> None:
    """Judge the validation part, choose, and write the choices down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="the quick trials, 9 bytes alone")
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, help="bytes an item")
    parser.add_argument("--queries", type=int, help="judge by so many of each trial's queries")
    parser.add_argument("--again", action="store_true", help="judge anew what has been judged")
    options = parser.parse_args(arguments)
    if options.queries is not None and options.queries < 1:
        parser.error(f"--queries: expected at least 1, got {options.queries}")
    folder = quality_folder(options.results, options.quick)
    sizes = options.sizes or ((9,) if options.quick else SIZES)
    try:
        rows = judge_all(folder, to_choose(sizes), n_queries=options.queries, again=options.again)
    except FileNotFoundError as error:
        sys.exit(str(error))
    save_rows(rows, folder / VALIDATION_ROWS)
    choices = choose(rows)
    text = tried_table(choices).markdown()
    (folder / TRIED).write_text(text)
    print(text)
    print(f"Saved {TRIED} and {VALIDATION_ROWS} in {folder}")
    try:
        save_choices(choices, folder)
    except PermissionError as error:
        sys.exit(str(error))


def save_choices(choices: list[Choice], folder: Path) -> None:
    """Write ``chosen.json``; once test pairs were read for it, it stays as it is.

    ``PermissionError`` where the choices would then be others.
    """
    path = folder / CHOSEN
    if path.is_file() and (folder / TEST_READ).is_file():
        if json.loads(json.dumps(choices)) != json.loads(path.read_text())["choices"]:
            raise PermissionError(
                f"{path}: expected the choices that test pairs were read for, got others, which "
                "are not saved; judge other choices by other test pairs, with another --results"
            )
        print(f"{CHOSEN} stays: test pairs were read for it")
        return
    rule = " ".join(__doc__.split("The rule, ")[1].split())
    write_json(path, {"rule": rule, "margin": MARGIN, "choices": choices, "versions": versions()})
    print(f"Saved {CHOSEN} in {folder}")


def tried_table(choices: list[Choice]) -> Table:
    """What was tried on the validation part, the best first; a star marks what was chosen."""
    lines = []
    for choice in choices:
        first = [choice["task"], choice["family"], f"{choice['size']}", f"{choice['refine'] or ''}"]
        for name, mean in sorted(choice["tried"].items(), key=lambda pair: -pair[1]):
            star = " *" if name == choice["name"] else ""
            lines.append([*first, name + star, in_points(mean)])
    header = ["task", "family", "bytes", "refine", "tried", "validation"]
    return Table("Tried on the validation part; * chosen", header, lines)


if __name__ == "__main__":
    main()
