"""Ali-CCP: train two towers on clicks jointly with their index, export, search, compare.

The rows come from the publisher's raw files or Merlin's parquet output (``--data``), else from the
simulator, which also knows the best ranking there can be.

    python -m workflows.aliccp --rows 2000000
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow.parquet as pq

from merlin_poeem import load_index, open_searcher, save_index, search_frame
from merlin_poeem.blocks import export_index, item_vectors, query_vectors
from merlin_poeem.datasets.aliccp import to_parquet
from workflows.aliccp.features import make_features
from workflows.aliccp.judging import (
    JUDGED_USERS,
    TEST_SHARE,
    K,
    add_bounds,
    judged_users,
    test_clicks,
)
from workflows.aliccp.simulate import write_all
from workflows.aliccp.simulation.world import World, scaled
from workflows.aliccp.towers import (
    BATCH_SIZE,
    DEFAULT_PROBES,
    EPOCHS,
    N_PROBES,
    ROWS,
    n_lists,
    train_joint,
)
from workflows.comparison import OURS, Comparison
from workflows.judged import Judged
from workflows.results import show_and_save

MAX_MALFORMED = 1_000
SHOWN_USERS = 3


def run(
    folder: Path, work: Path, *, seed: int, batch_size: int, epochs: int, results: Path
) -> tuple[Comparison, Judged]:
    """From parquet rows in ``folder`` to the rows of the table; the index goes to ``results``."""
    features = make_features(folder / "train", work)
    items = features.items(pq.read_table(folder / "items").to_pandas())
    judged = judged_users(test_clicks(folder), features, JUDGED_USERS, seed)
    print(f"{features.n_train:,} clicks, {len(items):,} items, {len(judged.users):,} test users.")
    model = train_joint(features, len(items), seed=seed, batch_size=batch_size, epochs=epochs)
    start = time.perf_counter()
    index = export_index(
        model,
        items,
        id_column="item_id",
        n_probes=min(DEFAULT_PROBES, n_lists(len(items))),
        info={"dataset": "ali-ccp", "seed": seed, "epochs": epochs, "batch_size": batch_size},
    )
    seconds = time.perf_counter() - start
    _, queries = query_vectors(model, judged.users)
    comparison = Comparison(queries, K, N_PROBES, judged.quality, seed)
    comparison.add_baselines(index.params, *item_vectors(model, items, id_column="item_id"))
    comparison.add_index(OURS, index, seconds)
    save_index(index, results / "aliccp.index")
    users = judged.users[["user_id"]].assign(embedding=list(queries))
    users[:SHOWN_USERS].to_parquet(results / "aliccp.queries.parquet")
    return comparison, judged


def show(results: Path) -> None:
    """Search the saved index for a few users, from frame to frame."""
    searcher = open_searcher(load_index(results / "aliccp.index"))
    users = pd.read_parquet(results / "aliccp.queries.parquet")
    print(search_frame(searcher, users, k=5, query_id="user_id").to_string(index=False))


def main(arguments: list[str] | None = None) -> None:
    """Run the demo from the command line."""
    description = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser("python -m workflows.aliccp", description=description)
    parser.add_argument("--data", type=Path, help="folder of raw or parquet files, else simulated")
    parser.add_argument("--rows", type=int, default=ROWS, help="simulated training rows")
    parser.add_argument("--items", type=int, help="simulated; else as many a row as the real set")
    parser.add_argument("--users", type=int, help="simulated; else as many a row as the real set")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation and of the training")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    options.results.mkdir(parents=True, exist_ok=True)
    name = "aliccp" if options.data else "aliccp-sim"
    with TemporaryDirectory() as place:
        folder, work = Path(place) / "rows", Path(place) / "work"
        work.mkdir()
        try:
            world = None if options.data else simulate(options, folder)
            if options.data:
                print(to_parquet(options.data, folder, max_malformed=MAX_MALFORMED))
        except (OSError, ValueError) as error:
            parser.exit(1, f"{error}\n")
        comparison, judged = run(
            folder,
            work,
            seed=options.seed,
            batch_size=options.batch_size,
            epochs=options.epochs,
            results=options.results,
        )
    if world is not None:
        add_bounds(comparison, judged, world)
    print("\nThe first of a few users' results, from the saved index:")
    show(options.results)
    print()
    show_and_save(comparison, "recall_at_100", name, options.results / f"demo_{name}")


def simulate(options: argparse.Namespace, folder: Path) -> World:
    """Write simulated rows to ``folder``."""
    items, users = scaled(options.rows)
    world = World.make(options.items or items, options.users or users, options.seed)
    rows = {"train": options.rows, "test": int(TEST_SHARE * options.rows)}
    print(f"Simulating {world.n_items:,} items, {world.n_users:,} users, rows {rows}.")
    write_all(world, folder, rows)
    return world


if __name__ == "__main__":
    main()
