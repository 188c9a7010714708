"""Candidates for frames of users: our ``batch_predict`` beside Merlin's, side by side.

    python -m benchmarks.batch_predict [--items 10000] [--rows 20000] [--merlin-rows 512]

Merlin's is timed without its fixed cost, saving and loading the model, which the table has as a
column of its own; the programs take turns, and the fastest round of each counts. Answers are
compared with the reference before anything is timed. Prints a table, writes
``results/batch_predict.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.models.tf.core.prediction import TopKPrediction
from merlin.models.tf.utils.batch_utils import TFModelEncode
from merlin.schema import ColumnSchema, Schema, Tags

from benchmarks.catalogs import Catalog
from merlin_poeem import Index, IVFPQParams, fit
from merlin_poeem.blocks.in_graph.predict import batch_predict
from merlin_poeem.blocks.in_graph.topk import IVFPQTopK
from merlin_poeem.search import reference
from workflows.comparison import versions

DIM = 64
CHECKED_ROWS = 200
Predict = Callable[[pd.DataFrame], Any]


def main() -> None:
    """Measure, print and save."""
    options = _options()
    index = make_index(options.items, options.lists)
    users = pd.DataFrame({"user_id": np.arange(options.rows)})
    rows = []
    header = ("program", "k", "n_probes", "batch", "rows", "us a row", "fixed s", "ratio")
    print(("{:>22}" + "{:>10}" * 7).format(*header))
    for k in options.ks:
        for row in compare(index, users, k, options):
            rows.append(row)
            print(
                f"{row['program']:>22}{k:>10}{row['n_probes'] or '–':>10}{row['batch']:>10}"
                f"{row['rows']:>10}{1e6 * row['seconds_per_row']:>10.1f}"
                f"{row['seconds_fixed']:>10.1f}{row['ratio']:>10.1f}"
            )
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "batch_predict.json"
    settings = {"items": options.items, "lists": options.lists, "dim": DIM}
    written = {"rows": rows, "settings": settings, "versions": versions()}
    path.write_text(json.dumps(written, indent=1) + "\n")


def compare(
    index: Index, users: pd.DataFrame, k: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row a program: Merlin's two, ours at each ``n_probes``; ``ratio`` to Merlin's first."""
    schema = user_schema(len(users))
    tower = mm.Encoder(schema, mm.MLPBlock([DIM], no_activation_last_layer=True))
    candidates = tf.constant(index.decode(index.item_ids))
    exact = mm.TopKEncoder(tower, candidates=candidates, k=k)
    ours = mm.TopKEncoder(tower, topk_layer=IVFPQTopK.from_index(index, k=k), k=k)
    for encoder in (exact, ours):
        encoder({"user_id": tf.zeros((2, 1), tf.int64)})
    check(ours, index, users[:CHECKED_ROWS], k)
    few = users[: options.merlin_rows]
    programs: list[tuple[str, int | None, int, pd.DataFrame, Predict, float]] = []
    for name, encoder in (("Merlin, BruteForce", exact), ("Merlin, IVFPQTopK", ours)):
        predict, fixed = merlin_predict(encoder, schema, k, options.merlin_batch)
        programs.append((name, None, options.merlin_batch, few, predict, fixed))
    for n_probes in options.n_probes:
        predict = our_predict(ours, k, n_probes, options.batch)
        programs.append(("batch_predict", n_probes, options.batch, users, predict, 0.0))
    best = {i: np.inf for i in range(len(programs))}
    for _ in range(options.rounds):
        for i, (*_, frame, predict, _) in enumerate(programs):
            best[i] = min(best[i], seconds(predict, frame) / len(frame))
    return [
        {
            "program": name,
            "k": k,
            "n_probes": n_probes,
            "batch": batch,
            "rows": len(frame),
            "seconds_per_row": best[i],
            "seconds_fixed": fixed,
            "ratio": best[0] / best[i],
        }
        for i, (name, n_probes, batch, frame, _, fixed) in enumerate(programs)
    ]


def merlin_predict(
    encoder: mm.TopKEncoder, schema: Schema, k: int, batch_size: int
) -> tuple[Predict, float]:
    """What ``TopKEncoder.batch_predict`` maps over partitions, and the seconds to make it."""
    start = time.perf_counter()
    encode = TFModelEncode(
        encoder, TopKPrediction.output_names(k), batch_size=batch_size, schema=schema
    )
    encode(pd.DataFrame({"user_id": np.arange(2)}))
    return encode, time.perf_counter() - start


def our_predict(encoder: mm.TopKEncoder, k: int, n_probes: int, batch_size: int) -> Predict:
    """Our ``batch_predict`` of one frame."""

    def predict(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.concat(
            batch_predict(encoder, frame, k=k, n_probes=n_probes, batch_size=batch_size)
        )

    predict(pd.DataFrame({"user_id": np.arange(2)}))
    return predict


def check(encoder: mm.TopKEncoder, index: Index, users: pd.DataFrame, k: int) -> None:
    """``SystemExit`` unless nearly all ids are the reference's: scores may tie within rounding."""
    queries = encoder.blocks[0]({"user_id": users["user_id"].to_numpy()[:, None]}).numpy()
    truth = reference.search(index, queries, k=k, n_probes=4)
    found = pd.concat(batch_predict(encoder, users, k=k, n_probes=4))
    same = (found["item_id"].to_numpy() == truth.item_ids).mean()
    if same < 0.99:
        raise SystemExit(f"ids: expected the reference's, got {same:.1%} of them")


def seconds(predict: Predict, frame: pd.DataFrame) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    predict(frame)
    return time.perf_counter() - start


def make_index(n_items: int, n_lists: int) -> Index:
    """8 bytes an item, over the clustered catalog of the search benchmarks."""
    vectors = Catalog("clustered", n_items, DIM).first(n_items)
    params = IVFPQParams(n_lists=n_lists, pq_dim=8, metric="inner_product")
    return Index.from_vectors(params, fit(params, vectors), np.arange(n_items), vectors)


def user_schema(n_users: int) -> Schema:
    """A user id alone."""
    domain = {"min": 0, "max": n_users - 1, "name": "user_id"}
    tags = [Tags.USER, Tags.USER_ID, Tags.CATEGORICAL]
    return Schema(
        [ColumnSchema("user_id", dtype=np.int64, tags=tags, properties={"domain": domain})]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--lists", type=int, default=32)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--merlin-rows", type=int, default=512)
    parser.add_argument("--merlin-batch", type=int, default=512)
    parser.add_argument("--ks", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--n-probes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
