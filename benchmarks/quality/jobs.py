"""What each task trains on and is judged by, as its own workflow does it; needs TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.io import Dataset

from benchmarks.quality.aliccp_clicks import Clicks
from benchmarks.quality.parts import TEST, VALIDATION, held_out
from benchmarks.quality.permit import Permit, require_permit
from benchmarks.quality.relevance import Relevance
from benchmarks.quality.trial import TrialName
from merlin_poeem import IdLists
from merlin_poeem.arrays import Int64
from merlin_poeem.datasets.aliccp.parquet import write_parquet
from workflows import poeem_tutorial
from workflows.aliccp import towers as aliccp
from workflows.aliccp.features import USER_COLUMNS
from workflows.aliccp.features import make_features as make_aliccp_features
from workflows.aliccp.judging import JUDGED_USERS, judged_users
from workflows.gowalla import data as gowalla_data
from workflows.gowalla import towers as gowalla
from workflows.judged import Judged
from workflows.movielens import data as movielens_data
from workflows.movielens import towers as movielens
from workflows.movielens.features import make_features

WORKFLOWS = {
    "tutorial": poeem_tutorial,
    "movielens-1m": movielens,
    "gowalla": gowalla,
    "aliccp": aliccp,
}
QUICK_PAIRS = 100_000
QUICK_SHARE = 8
SIMULATED_ROWS, QUICK_ROWS = 500_000, 100_000
"""Of Ali-CCP; of 25 one is a click."""
OTHER_SEEDS = 1000
"""Added to the seed of the tutorial's pairs: it makes as many as are wanted, and holds none out."""
TRAIN_QUERIES = 10_000
Model = tf.keras.Model
Pairs = TypeVar("Pairs", movielens_data.MovieLens, gowalla_data.CheckIns)


@dataclass(frozen=True)
class Job:
    """What there is to train on, and how the task's own workflow does it."""

    n_lists: int
    new_quantizer: Callable[..., Any]
    """(pq_dim, pq_bits, seed, options of the quantizer) → the quantizer."""
    joint_model: Callable[[Any], Model]
    plain_model: Callable[[], Model]
    train: Callable[..., Any]
    """(model, initial_epoch=, callbacks=): to the last of ``epochs``."""
    epochs: int
    pairs: Dataset
    """The training pairs."""
    n_pairs: int
    settle: Callable[[Model], None] | None
    """What the workflow does to a joint model between training and export, if anything."""
    queries: pd.DataFrame
    train_queries: pd.DataFrame
    """Users that were trained on, up to ``TRAIN_QUERIES``."""
    items: pd.DataFrame
    item_frequencies: Int64
    """(n_items,) int64, training pairs of each row of ``items``."""
    relevance: Relevance
    exclude: IdLists | None = None
    item_id: str | None = None
    """The column of the ids to export; None is the one tagged so."""


def make_job(name: TrialName, data: Path | None, quick: bool, permit: Permit | None = None) -> Job:
    """The job of a task; ``data`` is the folder of its files.

    ``PermissionError`` for the part of test pairs without a permit to read them.
    """
    require_permit(name.part, permit)
    if name.task == "tutorial":
        seed = name.seed + (OTHER_SEEDS if name.part == VALIDATION else 0)
        return tutorial_job(seed, QUICK_PAIRS if quick else poeem_tutorial.PAIRS)
    if name.task == "aliccp":
        return aliccp_job(name.part, QUICK_ROWS if quick else SIMULATED_ROWS)
    if data is None:
        raise ValueError(f"data: expected the folder of {name.task}, got none")
    if name.task == "movielens-1m":
        return movielens_job(_some_users(read_movielens(data, name), quick))
    if name.task == "gowalla":
        return gowalla_job(_some_users(read_gowalla(data, name), quick), name.seed)
    raise ValueError(f"task: expected one of {', '.join(WORKFLOWS)}, got {name.task!r}")


def read_movielens(folder: Path, name: TrialName) -> movielens_data.MovieLens:
    """The ratings to train on and to be found; those of the test are not read for another part.

    All seeds have the same: they are of the training.
    """
    if name.part == TEST:
        return movielens_data.read(folder, "1m")
    films = movielens_data.read_train(folder, "1m")
    train, found = held_out(films.train)
    return replace(films, train=train, test=found)


def read_gowalla(folder: Path, name: TrialName) -> gowalla_data.CheckIns:
    """The visits to train on and to be found; those of the test are not read for another part."""
    if name.part == TEST:
        return gowalla_data.read(folder)
    return gowalla_data.CheckIns(*held_out(gowalla_data.read_train(folder)))


def tutorial_job(seed: int, n_pairs: int) -> Job:
    """The Poeem tutorial's; a query's last two digits say what is right."""
    task = poeem_tutorial
    pairs = task.make_pairs(seed, n_pairs)
    lists = IdLists.from_rows([row.nonzero()[0] for row in task.matches()])
    return Job(
        n_lists=task.N_LISTS,
        new_quantizer=task.new_quantizer,
        joint_model=task.joint_model,
        plain_model=task.plain_model,
        train=partial(task.train, pairs=pairs, batch_size=task.BATCH_SIZE, epochs=task.EPOCHS),
        epochs=task.EPOCHS,
        pairs=Dataset(pairs, schema=task.schema()),
        n_pairs=len(pairs),
        settle=None,
        queries=task.QUERIES,
        train_queries=some(task.QUERIES),
        items=task.ITEMS,
        item_frequencies=np.bincount(pairs["item"], minlength=len(task.ITEMS)),
        relevance=Relevance(lists, task.QUERIES["query"].to_numpy() % 100),
    )


def movielens_job(data: movielens_data.MovieLens) -> Job:
    """MovieLens' films for the users with ratings to be found, without those that they know."""
    task = movielens
    features = make_features(data)
    judged = Judged.of(features.users, data.train, data.test, task.K)
    how = {"batch_size": task.BATCH_SIZE, "epochs": task.EPOCHS}
    return Job(
        n_lists=task.N_LISTS,
        new_quantizer=task.new_quantizer,
        joint_model=lambda quantizer: task.joint_model(features, quantizer),
        plain_model=lambda: task.plain_model(features),
        train=partial(task.train, features=features, **how),
        epochs=task.EPOCHS,
        pairs=Dataset(features.train, schema=features.schema),
        n_pairs=len(features.train),
        settle=lambda model: task.settle(model, features),
        queries=judged.users,
        train_queries=some(features.users[features.users["user_id"].isin(data.train["user_id"])]),
        items=features.items,
        item_frequencies=features.item_frequencies[features.items["item"]],
        relevance=Relevance.of_each(judged.relevant),
        exclude=judged.seen,
        item_id="item_id",
    )


def gowalla_job(check_ins: gowalla_data.CheckIns, seed: int) -> Job:
    """Gowalla's places for the users with visits to be found, without those that they know."""
    task = gowalla.Task.of(check_ins, seed)
    how = {"batch_size": gowalla.BATCH_SIZE, "epochs": gowalla.EPOCHS}
    return Job(
        n_lists=gowalla.N_LISTS,
        new_quantizer=gowalla.new_quantizer,
        joint_model=lambda quantizer: gowalla.joint_model(task, quantizer),
        plain_model=lambda: gowalla.plain_model(task),
        train=partial(gowalla.train, task=task, **how),
        epochs=gowalla.EPOCHS,
        pairs=Dataset(task.training_pairs[task.schema.column_names], schema=task.schema),
        n_pairs=len(task.training_pairs),
        settle=lambda model: gowalla.settle(model, task),
        queries=task.judged.users,
        train_queries=some(task.judged.users),
        items=task.items,
        item_frequencies=task.item_frequencies[task.items["item_id"]],
        relevance=Relevance.of_each(task.judged.relevant),
        exclude=task.judged.seen,
    )


def aliccp_job(part: str, n_rows: int) -> Job:
    """The items of a simulated Ali-CCP for users with clicks to be found.

    All seeds have the same world: they are of the training.
    """
    clicks = Clicks.of(part, n_rows)
    with TemporaryDirectory() as folder:
        write_parquet([clicks.train], Path(folder) / "train")
        features = make_aliccp_features(Path(folder) / "train", Path(folder))
        items = features.items(clicks.catalog)
        judged = judged_users(clicks.found.to_pandas(), features, JUDGED_USERS, seed=0)
        users = clicks.train.to_pandas().dropna(subset="user_id").drop_duplicates("user_id")
        train_queries = features.users(some(users[["user_id", *USER_COLUMNS]]))
        pairs = features.clicks().compute()
    dataset = Dataset(pairs, schema=features.schema)
    n_lists = aliccp.n_lists(len(items))
    how = {"batch_size": aliccp.BATCH_SIZE, "epochs": aliccp.EPOCHS}
    return Job(
        n_lists=n_lists,
        new_quantizer=partial(aliccp.new_quantizer, lists=n_lists),
        joint_model=lambda quantizer: aliccp.joint_model(features, quantizer),
        plain_model=lambda: aliccp.plain_model(features),
        train=partial(aliccp.train, clicks=dataset, n_clicks=len(pairs), **how),
        epochs=aliccp.EPOCHS,
        pairs=dataset,
        n_pairs=len(pairs),
        settle=None,
        queries=judged.users,
        train_queries=train_queries,
        items=items,
        item_frequencies=features.item_frequencies[items["item"]],
        relevance=Relevance.of_each(judged.relevant),
        item_id="item_id",
    )


def some(users: pd.DataFrame) -> pd.DataFrame:
    """``TRAIN_QUERIES`` of them, drawn at random, or all where there are fewer."""
    return users.sample(min(TRAIN_QUERIES, len(users)), random_state=0).reset_index(drop=True)


def _some_users(data: Pairs, quick: bool) -> Pairs:
    """The pairs of one user in eight where it shall be quick."""
    if not quick:
        return data
    parts = {
        part: pairs[pairs["user_id"] % QUICK_SHARE == 0].reset_index(drop=True)
        for part, pairs in (("train", data.train), ("test", data.test))
    }
    return replace(data, **parts)
