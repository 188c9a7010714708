"""Recall against queries per second on the CPU: ``python -m benchmarks.cpu_peers [--quick]``.

Ours beside Faiss, ScaNN and usearch, each over its own settings: on a made-up catalog, or, with
``--trial``, on what ``python -m benchmarks.quality.training`` trained. Prints tables, and writes
them, a picture and all rows into ``results/cpu_peers/``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import faiss

from benchmarks.cpu_peers.at_target import at_target
from benchmarks.cpu_peers.choose import choose
from benchmarks.cpu_peers.grid import Grid
from benchmarks.cpu_peers.material import Material, made_up, of_trial
from benchmarks.cpu_peers.measure import measure
from benchmarks.cpu_peers.methods import OPENERS, open_methods
from benchmarks.cpu_peers.report import plot, tables
from benchmarks.quality.trial import write_json
from workflows.comparison import versions


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    options = _options(arguments)
    started = time.perf_counter()
    faiss.omp_set_num_threads(options.threads)
    material = _material(options)
    n_items, dim = material.vectors.shape
    print(f"{material.name}: {n_items:,} items of {dim} dimensions", flush=True)
    grid = Grid.of(material, options.threads, options.quick)
    built, missing = open_methods(options.methods, material, grid)
    points = choose(built, material.chosen_by)
    rows = measure(points, material.reported, options.rounds)
    metric = next(iter(material.reported.right))
    reached = at_target(rows, metric, options.target, len(material.reported.queries))
    text = tables(material, rows, reached, options.target)
    print(text)
    path = options.results / "cpu_peers" / (material.name + ("-quick" if options.quick else ""))
    plot(material, rows, options.target, path.with_name(f"{path.name}.png"))
    path.with_name(f"{path.name}.md").write_text(text)
    facts = {
        "rows": rows,
        "at_target": [vars(each) for each in reached],
        "target": options.target,
        "exact": material.exact,
        "missing": missing,
        "threads": options.threads,
        "versions": versions(),
    }
    write_json(path.with_name(f"{path.name}.json"), facts)
    print(f"{path}.json, .md and .png, in {time.perf_counter() - started:.0f} s")


def _material(options: argparse.Namespace) -> Material:
    if options.trial is not None:
        return of_trial(options.trial, options.queries, options.k)
    return made_up(
        options.n_items, options.dim, options.n_lists, options.bytes, options.queries, options.k
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trial", type=Path, help="a trial's folder; lists and bytes are its own")
    parser.add_argument("--n-items", type=int)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--n-lists", type=int)
    parser.add_argument("--bytes", type=int, default=16, help="of an item's codes")
    parser.add_argument("--queries", type=int, help="of each of the two batches")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--target", type=float, default=0.95, help="of the first metric")
    parser.add_argument("--methods", nargs="+", choices=OPENERS, default=list(OPENERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="a small catalog, few settings")
    options = parser.parse_args(arguments)
    usual = (20_000, 128, 500, 3) if options.quick else (570_000, 1024, 1000, 9)
    for name, value in zip(("n_items", "n_lists", "queries", "rounds"), usual, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
