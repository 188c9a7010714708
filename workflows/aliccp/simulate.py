"""Ali-CCP made up: its schema, cardinalities and raw format, with tastes that can be learned.

Writes training and test rows and the catalog of items:

    python -m workflows.aliccp.simulate --rows 1000000 --to FOLDER [--format raw]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from merlin_poeem.datasets.aliccp.parquet import write_parquet
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import World, scaled
from workflows.aliccp.simulation.write_raw import write_raw


def write_all(
    world: World, folder: Path, rows: dict[str, int], file_format: str = "parquet"
) -> None:
    """``train/`` and ``test/`` of the given numbers of rows, and the catalog in ``items/``."""
    for part, n_rows in rows.items():
        if file_format == "raw":
            write_raw(world, n_rows, folder / part, part)
        else:
            write_parquet(draw_rows(world, n_rows, part), folder / part)
    write_parquet(world.catalog(), folder / "items", rows=world.n_items)


def main(arguments: list[str] | None = None) -> None:
    """Write a data set from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--to", type=Path, required=True, help="folder for train, test and items")
    parser.add_argument("--rows", type=int, default=1_000_000, help="training rows; half as test")
    parser.add_argument("--items", type=int, help="else as many a row as in the real set")
    parser.add_argument("--users", type=int, help="else as many a row as in the real set")
    parser.add_argument("--format", choices=("parquet", "raw"), default="parquet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    items, users = scaled(options.rows)
    world = World.make(options.items or items, options.users or users, options.seed)
    rows = {"train": options.rows, "test": options.rows // 2}
    write_all(world, options.to, rows, options.format)
    print(f"{options.to}: {world.n_items:,} items, {world.n_users:,} users, rows {rows}")


if __name__ == "__main__":
    main()
