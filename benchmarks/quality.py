"""Quality over seeds on the Poeem tutorial's task: a table of means, and every row as JSON.

python -m benchmarks.quality [--quick] [--seeds 0 1 2] [--pq-bits 8 4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from workflows.comparison import Row, save_rows
from workflows.poeem_tutorial import PAIRS, compare, make_pairs

QUICK_PAIRS = 100_000


def mean_table(rows: list[Row]) -> pd.DataFrame:
    """Mean and spread over seeds of each method, size and ``n_probes``."""
    keys = ["method", "bytes_per_item", "n_probes"]
    grouped = pd.DataFrame(rows).groupby(keys, dropna=False, sort=False)
    return grouped.agg(
        precision_at_100=("precision_at_100", "mean"),
        spread=("precision_at_100", lambda values: values.max() - values.min()),
        max_over_mean_list=("max_over_mean_list", "max"),
        items_scanned=("items_scanned", "mean"),
        build_seconds=("build_seconds", "mean"),
        seeds=("seed", "nunique"),
    )


def main() -> None:
    """Run from the command line; saves after every training, so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pq-bits", type=int, nargs="+", default=[8, 4], choices=(4, 8))
    parser.add_argument("--without-plain", action="store_true", help="only the joint model")
    parser.add_argument("--quick", action="store_true", help="a tenth of the pairs, one seed")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    rows: list[Row] = []
    for pq_bits in arguments.pq_bits:
        for seed in seeds:
            comparison = compare(
                make_pairs(seed, QUICK_PAIRS if arguments.quick else PAIRS),
                seed=seed,
                pq_bits=pq_bits,
                with_plain=not arguments.without_plain,
            )
            rows += comparison.rows
            save_rows(rows, arguments.results / "quality.json")
            print(mean_table(rows).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
