"""Ali-CCP at its real size: 4.3M simulated items through a trained item tower into a saved index.

Training sees few rows, the export sees every item. Writes seconds and peak memory of each stage to
``results/aliccp_scale.json``, and whether a search through frames agrees with the reference.

    python -m benchmarks.aliccp_scale
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from merlin_poeem import load_index, open_searcher, save_index, search_frame
from merlin_poeem.blocks import export_index, query_vectors
from workflows.aliccp.features import make_features
from workflows.aliccp.judging import JUDGED_USERS, K, judged_users, test_clicks
from workflows.aliccp.simulate import write_all
from workflows.aliccp.simulation.world import REAL_ITEMS, REAL_USERS, World
from workflows.aliccp.towers import DEFAULT_PROBES, train_joint
from workflows.comparison import save_rows

COUNTED = ("items", "export", "save")
COMPARED_USERS = 200
TOLERANCE = 1e-5


class Stages:
    """Seconds of each stage, and the process' peak memory when it ended."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        self.rows.append({"stage": name, "seconds": seconds, "peak_gib_so_far": peak})
        print(f"{name:24s} {seconds:8.1f} s   peak {peak:5.2f} GiB", flush=True)


def agreement(index_path: Path, users: pd.DataFrame) -> dict[str, float]:
    """How the fast searcher's frame stands to the reference's: equal but for the order of ties.

    Raises ``RuntimeError`` where rows or scores differ by more than rounding.
    """
    index = load_index(index_path)
    found, expected = (
        search_frame(open_searcher(index, backend), users, k=K, query_id="user_id")
        for backend in ("auto", "reference")
    )
    if not found[["user_id", "rank"]].equals(expected[["user_id", "rank"]]):
        raise RuntimeError(f"search: expected {len(expected)} rows as the reference's, got others")
    difference = float((found["score"] - expected["score"]).abs().max())
    if difference > TOLERANCE:
        raise RuntimeError(f"search: expected scores within {TOLERANCE}, got {difference} apart")
    both = found.merge(expected, on=["user_id", "item_id"])
    return {
        "same_item_at_rank": float((found["item_id"] == expected["item_id"]).mean()),
        "same_item_at_any_rank": len(both) / len(expected),
        "largest_score_difference": difference,
    }


def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Every stage; returns their rows, and one for the whole."""
    stages = Stages()
    with stages.stage("simulate"):
        world = World.make(options.items, options.users, options.seed)
        write_all(world, folder, {"train": options.rows, "test": options.rows // 10})
        del world
    (folder / "work").mkdir()
    with stages.stage("features"):
        features = make_features(folder / "train", folder / "work")
    with stages.stage("train"):
        model = train_joint(features, options.items, seed=options.seed, batch_size=1024, epochs=1)
    with stages.stage("items"):
        items = features.items(pq.read_table(folder / "items").to_pandas())
    with stages.stage("export"):
        index = export_index(model, items, id_column="item_id", n_probes=DEFAULT_PROBES)
    path = options.results / "aliccp_scale.index"
    with stages.stage("save"):
        save_index(index, path)
    if index.n_items != options.items:
        raise RuntimeError(f"index: expected {options.items} items, got {index.n_items}")
    counted = [row for row in stages.rows if row["stage"] in COUNTED]
    judged = judged_users(test_clicks(folder), features, JUDGED_USERS, options.seed)
    users = judged.users[["user_id"]].assign(embedding=list(query_vectors(model, judged.users)[1]))
    del items, index, model
    with stages.stage("search with both"):
        compared = agreement(path, users[:COMPARED_USERS])
    whole = {
        "stage": "items + export + save",
        "seconds": sum(row["seconds"] for row in counted),
        "peak_gib_so_far": max(row["peak_gib_so_far"] for row in counted),
        "n_items": options.items,
        "n_clicks": features.n_train,
        "index_bytes": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
        **compared,
    }
    return [*stages.rows, whole]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=REAL_ITEMS)
    parser.add_argument("--users", type=int, default=REAL_USERS)
    parser.add_argument("--rows", type=int, default=2_500_000, help="impressions trained on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Initializing an NVTabular Dataset in CPU mode")
    options.results.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        rows = run(options, Path(folder))
    save_rows(rows, options.results / "aliccp_scale.json")
    print(rows[-1])


if __name__ == "__main__":
    main()
