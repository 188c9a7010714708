"""Users and items through an NVTabular workflow: raw columns to the numbers that towers read.

The columns ``user`` and ``item`` are ids numbered by the workflow; ``user_id`` and ``item_id`` are
the publisher's.
"""

from __future__ import annotations

import numpy as np
import nvtabular as nvt
import pandas as pd
from merlin.dag.ops.subgraph import Subgraph
from merlin.io import Dataset
from merlin.schema import Schema
from nvtabular import ops

from merlin_poeem.arrays import Int64


def user_item_workflow(
    user_id: nvt.WorkflowNode,
    user_features: nvt.WorkflowNode,
    item_id: nvt.WorkflowNode,
    item_features: nvt.WorkflowNode,
) -> nvt.Workflow:
    """To be fitted; of numbered columns makes ``user`` and ``item``, tagged, with features beside.

    Its subgraphs are ``user`` and ``item``, so that each side can be numbered alone.
    """
    user_id = user_id >> ops.Rename(name="user") >> ops.TagAsUserID()
    item_id = item_id >> ops.Rename(name="item") >> ops.TagAsItemID()
    user = user_id + (user_features >> ops.TagAsUserFeatures())
    item = item_id + (item_features >> ops.TagAsItemFeatures())
    return nvt.Workflow(Subgraph("user", user) + Subgraph("item", item))


def numbered_rows(workflow: nvt.Workflow, side: str, raw: pd.DataFrame) -> pd.DataFrame:
    """Raw rows of a side, ``user`` or ``item``, as the fitted workflow's numbers, in their order.

    The publisher's id stays beside; ids that are unknown to the workflow are allowed.
    ``ValueError`` where columns are missing (named).
    """
    one_side = workflow.get_subworkflow(side)
    missing = set(one_side.input_schema.column_names) - set(raw.columns)
    if missing:
        raise ValueError(
            f"{side}s: expected the columns {sorted(missing)}, got {list(raw.columns)}"
        )
    raw = raw.reset_index(drop=True)
    numbers = one_side.transform(Dataset(raw, cpu=True)).compute().reset_index(drop=True)
    id_name = f"{side}_id"
    return numbers.assign(**{id_name: raw[id_name]})


def item_frequencies(schema: Schema, items: np.ndarray) -> Int64:
    """(vocabulary of ``item``,) int64: how often each number is in the column ``items``."""
    size = int(schema["item"].properties["domain"]["max"]) + 1
    return np.bincount(items, minlength=size)
