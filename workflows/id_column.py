"""Ids that are numbers already, one or a list a row, as a Merlin schema has them."""

from __future__ import annotations

import numpy as np
from merlin.schema import ColumnSchema, Tags


def id_column(name: str, size: int, *tags: Tags) -> ColumnSchema:
    """An int64 column of ids from 0 to ``size`` - 1, categorical and of ``tags``."""
    return ColumnSchema(
        name,
        dtype=np.int64,
        tags=[*tags, Tags.CATEGORICAL],
        properties={"domain": {"min": 0, "max": size - 1, "name": name}},
    )


def id_list_column(name: str, of: ColumnSchema, *tags: Tags) -> ColumnSchema:
    """A column of lists of the ids of ``of``; both have one embedding table in a tower."""
    return ColumnSchema(
        name,
        dtype=np.int64,
        tags=[*tags, Tags.CATEGORICAL],
        properties={"domain": of.properties["domain"]},
        is_list=True,
        is_ragged=True,
    )
