"""Ids that are numbers already, as a Merlin schema has them."""

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
