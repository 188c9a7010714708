"""Search on a GPU beside everything else that could do it: ``python -m benchmarks.search_gpu``.

For every size of the grid: queries a second, recall against exact search, the share of what the
card could do at best (``limits.py``), and the same of every peer that is installed (``peers.py``),
in turns within the same run. Before anything is timed its answers are compared with the CPU's; a
wrong one is never timed. Times are CUDA events around a whole search, from queries on the device to
results on the device; batches take turns, so that no search finds the lists of the one before it in
the cache.

Rows go to ``results/search_gpu.json`` as they come, and a later run goes on where this one stopped.
``--emulate`` runs the kernels on the CPU, on tiny sizes: it shows that all of this works, and
measures nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.catalogs import KINDS
from benchmarks.search_gpu.equal_recall import equal_recall_table
from benchmarks.search_gpu.grid import EMULATED_SIZES, QUICK_SIZES, SHAPES
from benchmarks.search_gpu.machine import open_machine
from benchmarks.search_gpu.measure import measure_all
from benchmarks.search_gpu.results import Results
from benchmarks.search_gpu.table import markdown


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    options = parse(arguments)
    results = Results(options.results)
    if options.emulate:
        print("emulated, not a measurement: no times, and no queries/s")
    with open_machine(options.emulate) as machine:
        measure_all(options, machine, results)
    at_equal_recall = equal_recall_table(results.rows)
    print(f"at equal recall:\n\n{at_equal_recall}")
    if options.markdown is not None:
        text = f"{markdown(results.rows)}\nAt equal recall:\n\n{at_equal_recall}"
        options.markdown.write_text(text)
        print(f"table written to {options.markdown}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; those that --quick and --emulate shrink may still be named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-items", type=int, nargs="+", default=[570_000, 4_300_000])
    parser.add_argument("--shape", choices=SHAPES, default="usual", help="huge: 50M, k = 1,500")
    parser.add_argument(
        "--on-device",
        action="store_true",
        help="make catalog and codes on the device, as is done without Faiss and of large ones",
    )
    parser.add_argument("--large", action="store_true", help="20M items as well")
    parser.add_argument("--kind", choices=KINDS, default="clustered")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--code-bytes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--pq-bits", type=int, choices=(4, 8), default=8)
    parser.add_argument("--n-lists", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--n-probes", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 1024, 16384])
    parser.add_argument("--ks", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--quick", action="store_true", help="one small index, few settings")
    parser.add_argument("--emulate", action="store_true", help="tiny, on the CPU; measures nothing")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("results/indexes"), help="indexes kept")
    parser.add_argument("--results", type=Path, help="default: results/search_gpu.json")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    options = parser.parse_args(arguments)
    named = vars(options)
    shrunk = SHAPES[options.shape]
    if options.emulate or options.quick:
        shrunk = EMULATED_SIZES if options.emulate else QUICK_SIZES
    named.update({axis: v for axis, v in shrunk.items() if named[axis] == parser.get_default(axis)})
    if options.large:
        options.n_items = [*options.n_items, 20_000_000]
    if options.results is None:
        name = "search_gpu_emulated.json" if options.emulate else "search_gpu.json"
        options.results = Path("results") / name
    return options


if __name__ == "__main__":
    main()
