"""MovieLens through an NVTabular workflow: raw columns to the numbers that the towers read."""

from __future__ import annotations

from dataclasses import dataclass
from tempfile import TemporaryDirectory

import nvtabular as nvt
import pandas as pd
from merlin.io import Dataset
from merlin.schema import Schema
from nvtabular import ops

from merlin_poeem.arrays import Int64
from workflows.movielens.data import MovieLens
from workflows.numbering import item_frequencies, numbered_rows, user_item_workflow

USER_COLUMNS = ["gender", "age", "occupation", "zip"]
ITEM_COLUMNS = ["year", "genres"]


@dataclass(frozen=True)
class Features:
    """What the towers read, and the publisher's ids beside it.

    The columns ``user`` and ``item`` are ids numbered by the workflow; ``user_id`` and ``item_id``
    are the publisher's.
    """

    schema: Schema
    """Of the workflow's output: columns tagged user or item, with vocabulary sizes."""
    train: pd.DataFrame
    """A row a training pair: all columns of ``schema``."""
    users: pd.DataFrame
    """A row a user: ``user_id`` and the user columns."""
    items: pd.DataFrame
    """A row a film with training pairs, the catalog: ``item_id`` and the item columns."""
    item_frequencies: Int64
    """(vocabulary of ``item``,) int64: training pairs of each."""


def make_workflow(statistics: str) -> nvt.Workflow:
    """To be fitted on training pairs with all raw columns; keeps its tables in ``statistics``."""

    def numbered(columns: list[str]) -> nvt.WorkflowNode:
        return columns >> ops.Categorify(out_path=statistics)

    return user_item_workflow(
        numbered(["user_id"]), numbered(USER_COLUMNS), numbered(["item_id"]), numbered(ITEM_COLUMNS)
    )


def make_features(data: MovieLens) -> Features:
    """Fit the workflow on the training pairs, apply it to the users and to the films they rated."""
    items = data.items[data.items["item_id"].isin(data.train["item_id"])].drop(columns="title")
    raw = data.train.merge(data.users, on="user_id").merge(items, on="item_id")
    with TemporaryDirectory() as statistics:
        workflow = make_workflow(statistics)
        workflow.fit(Dataset(raw, cpu=True))
        user_rows = numbered_rows(workflow, "user", data.users)
        item_rows = numbered_rows(workflow, "item", items)
    train = data.train.merge(user_rows, on="user_id").merge(item_rows, on="item_id")
    schema = workflow.output_schema
    return Features(
        schema=schema,
        train=train[schema.column_names],
        users=user_rows,
        items=item_rows,
        item_frequencies=item_frequencies(schema, train["item"]),
    )
