"""Ali-CCP: train two towers on clicks jointly with their index, export, search, compare.

The rows come from the publisher's raw files or Merlin's parquet output (``--data``), else from the
simulator, which also knows the best ranking there can be.

    python -m workflows.aliccp --rows 2000000
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf
from merlin.io import Dataset
from merlin.models.tf.transforms.bias import PopularityLogitsCorrection
from tqdm import tqdm

from merlin_poeem import IdLists, load_index, open_searcher, save_index, search_frame
from merlin_poeem.arrays import Int64
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    QuantizedTwoTowerModel,
    Temperature,
    export_index,
    item_vectors,
    query_vectors,
)
from merlin_poeem.evaluate import ndcg_at_k, recall_at_k
from workflows.aliccp_data import Report, distinct_items, read, read_parquet, write_parquet
from workflows.aliccp_features import COLUMNS, PART_BYTES, USER_COLUMNS, Features, make_features
from workflows.aliccp_simulate import World, scaled, write_all
from workflows.comparison import OURS, Comparison
from workflows.plot import plot_quality

ROWS = 2_000_000
TEST_SHARE = 0.2
DIM = 64
TABLE_DIM = 32
TEMPERATURE = 0.1
LEARNING_RATE = 0.005
ITEMS_PER_LIST = 800
MAX_LISTS = 1024
PQ_DIM = 16
N_PROBES = (1, 2, 4, 8, 16, 32)
DEFAULT_PROBES = 8
BATCH_SIZE = 256
EPOCHS = 4
K = 100
WARMUP = 0.5
AGREEMENT = 0.5
JUDGED_USERS = 2_000
MAX_MALFORMED = 1_000
SHOWN_USERS = 3


def tower() -> mm.MLPBlock:
    """The layers above a tower's embeddings."""
    return mm.MLPBlock([2 * DIM, DIM], no_activation_last_layer=True)


def joint_model(features: Features, quantizer: IVFPQQuantizer) -> mm.RetrievalModel:
    """The two towers with the index in them.

    Negatives are the other items of the batch, where popular ones come up more often: their logits
    are lowered by their log frequency (Yi et al., RecSys 2019).
    """
    schema = features.schema
    correction = PopularityLogitsCorrection(features.item_frequencies, schema=schema)
    return QuantizedTwoTowerModel(
        schema,
        tower(),
        quantizer,
        item_tower=tower(),
        embedding_options=mm.EmbeddingOptions(embedding_dim_default=TABLE_DIM),
        prediction_tasks=mm.ItemRetrievalTask(
            schema, post_logits=Temperature(TEMPERATURE).connect(correction)
        ),
    )


def train(
    features: Features,
    n_items: int,
    *,
    seed: int,
    batch_size: int,
    epochs: int,
    callbacks: tuple[tf.keras.callbacks.Callback, ...] = (),
    sample_size: int | None = None,
) -> mm.RetrievalModel:
    """A trained joint model, with as many lists as ``n_items`` ask for; streams the clicks.

    ``sample_size`` is the quantizer's.
    """
    tf.keras.utils.set_random_seed(seed)
    steps = epochs * -(-features.n_train // batch_size)
    quantizer = IVFPQQuantizer(
        n_lists(n_items),
        PQ_DIM,
        metric="cosine",
        warmup=WARMUP,
        agreement=AGREEMENT,
        sample_size=sample_size,
        seed=seed,
    )
    model = joint_model(features, quantizer)
    rate = tf.keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(optimizer=tf.keras.optimizers.Adam(rate), run_eagerly=False, metrics=[])
    clicks = Dataset(
        str(features.train / "*.parquet"),
        engine="parquet",
        schema=features.schema,
        part_size=PART_BYTES,
        cpu=True,
    )
    print(f"Training the towers jointly with their index, {steps} steps.")
    model.fit(clicks, batch_size=batch_size, epochs=epochs, callbacks=list(callbacks))
    return model


def n_lists(n_items: int) -> int:
    """A power of two, about ``ITEMS_PER_LIST`` items a list, from 8 to ``MAX_LISTS``."""
    return int(np.clip(2 ** round(np.log2(n_items / ITEMS_PER_LIST)), 8, MAX_LISTS))


@dataclass(frozen=True)
class Judged:
    """The users that the table is about: some of those with an id and clicks in the test."""

    users: pd.DataFrame
    """(n, ...) rows with the query tower's columns and ``user_id``."""
    relevant: IdLists
    """The items that they clicked in the test; what they clicked before may be clicked again."""

    @classmethod
    def of(cls, clicks: pd.DataFrame, features: Features, n_users: int, seed: int) -> Judged:
        """``n_users`` drawn from those of the test clicks."""
        clicks = clicks.dropna(subset=["user_id", "item_id"]).astype({"user_id": np.int64})
        rows = clicks.drop_duplicates("user_id")
        if not len(rows):
            raise ValueError("test: expected clicks of users with an id, got none")
        rows = rows.sample(min(n_users, len(rows)), random_state=seed).reset_index(drop=True)
        items = clicks.groupby("user_id")["item_id"].unique()
        relevant = IdLists.from_rows([items[one].astype(np.int64) for one in rows["user_id"]])
        return cls(features.users(rows[["user_id", *USER_COLUMNS]]), relevant)

    def quality(self, found: Any) -> dict[str, float]:
        """What a search for these users is worth."""
        return {
            "recall_at_100": recall_at_k(found, self.relevant, K),
            "ndcg_at_100": ndcg_at_k(found, self.relevant, K),
        }


def import_rows(source: Path, folder: Path, report: Report) -> None:
    """Any format that ``aliccp_data.read`` takes, as parquet in ``train/``, ``test/``, ``items/``.

    ``items/`` is copied where the source has it, else made of the items in the training rows.
    """
    for part in ("train", "test"):
        tables = tqdm(read(source, part, report=report), desc=f"Reading {part}", unit=" tables")
        write_parquet(tables, folder / part)
    if any((source / "items").glob("*.parquet")):
        items = pq.read_table(source / "items")
    else:
        items = pa.Table.from_pandas(distinct_items(read_parquet(folder / "train")))
    write_parquet([items], folder / "items")


def test_clicks(folder: Path) -> pd.DataFrame:
    """The clicks among the rows of the test."""
    return pa.concat_tables(_clicks(folder / "test")).to_pandas()


def _clicks(folder: Path) -> Iterator[pa.Table]:
    for table in read_parquet(folder):
        yield table.filter(pc.equal(table["click"], 1)).select(COLUMNS)


def run(
    folder: Path, work: Path, *, seed: int, batch_size: int, epochs: int, results: Path
) -> tuple[Comparison, Judged]:
    """From parquet rows in ``folder`` to the rows of the table; the index goes to ``results``."""
    features = make_features(folder / "train", work)
    items = features.items(pq.read_table(folder / "items").to_pandas())
    judged = Judged.of(test_clicks(folder), features, JUDGED_USERS, seed)
    print(f"{features.n_train:,} clicks, {len(items):,} items, {len(judged.users):,} test users.")
    model = train(features, len(items), seed=seed, batch_size=batch_size, epochs=epochs)
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
    item_ids, vectors = item_vectors(model, items, id_column="item_id")
    comparison = Comparison(queries, K, N_PROBES, judged.quality, seed)
    factory = f"IVF{index.n_lists},PQ{PQ_DIM}"
    comparison.add_exact("exact", item_ids, vectors)
    comparison.add_faiss("Faiss IVF-PQ", factory, item_ids, vectors)
    comparison.add_faiss("Faiss OPQ+IVF-PQ", f"OPQ{PQ_DIM},{factory}", item_ids, vectors)
    comparison.add_index(OURS, index, seconds)
    save_index(index, results / "aliccp.index")
    users = judged.users[["user_id"]].assign(embedding=list(queries))
    users[:SHOWN_USERS].to_parquet(results / "aliccp.queries.parquet")
    return comparison, judged


def add_bound(comparison: Comparison, judged: Judged, method: str, item_ids: Int64) -> None:
    """A row for (n_users, K) items that no model has found."""
    quality = judged.quality(item_ids)
    blank = dict.fromkeys(comparison.rows[0])
    comparison.rows.append({**blank, "method": method, "seed": comparison.seed, **quality})


def add_bounds(comparison: Comparison, judged: Judged, world: World) -> None:
    """What the simulator knows: the best ranking for every user, and the most popular items."""
    best = world.best_items(judged.users["user_id"].to_numpy(), K)
    add_bound(comparison, judged, "best possible", best)
    popular = np.tile(world.item_ids[:K], (len(best), 1))
    add_bound(comparison, judged, "most popular", popular)


def show(results: Path) -> None:
    """Search the saved index for a few users, from frame to frame."""
    searcher = open_searcher(load_index(results / "aliccp.index"))
    users = pd.read_parquet(results / "aliccp.queries.parquet")
    print(search_frame(searcher, users, k=5, query_id="user_id").to_string(index=False))


def main(arguments: list[str] | None = None) -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
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
                report = Report(MAX_MALFORMED)
                import_rows(options.data, folder, report)
                print(report)
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
    print(f"\n{comparison.table()}")
    saved = options.results / f"demo_{name}"
    comparison.save(saved.with_suffix(".json"))
    plot_quality(comparison.rows, "recall_at_100", name, saved.with_suffix(".png"))
    print(f"Saved {saved}.json and {saved}.png")


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
