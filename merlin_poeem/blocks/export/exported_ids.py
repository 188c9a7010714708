"""The ids of exported items: each once, integers or texts."""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from merlin.schema import ColumnSchema
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64
from merlin_poeem.frames.columns import is_text, read_arrow, read_ids, read_texts
from merlin_poeem.index.item_keys import Keys, as_keys

Ids: TypeAlias = NDArray[Any]
"""(n,) int64, or texts as objects."""

logger = logging.getLogger(__name__)


class FirstRows:
    """The rows with ids that no row before them had, over the partitions of a dataset."""

    def __init__(self) -> None:
        self._seen: Int64 = np.empty(0, np.int64)
        self._seen_keys: set[str] = set()

    def of(self, ids: Ids) -> Int64:
        """Rows (n,) of a partition's ``ids``, rising.

        ``TypeError`` where they are texts and others were integers, or the other way round.
        """
        if len(self._seen_keys if ids.dtype != object else self._seen):
            raise TypeError("ids: expected integers or texts in all partitions, got both")
        rows = np.flatnonzero(~pd.Index(ids).duplicated())
        if ids.dtype == object:
            is_new = np.array([key not in self._seen_keys for key in ids[rows]], bool)
            rows = rows[is_new]
            self._seen_keys.update(ids[rows])
        else:
            rows = rows[~np.isin(ids[rows], self._seen)]
            self._seen = np.concatenate([self._seen, ids[rows]])
        return rows


def read_exported_ids(frame: pd.DataFrame, name: str) -> Int64 | Keys:
    """The column ``name``, (n,) int64 or texts.

    ``TypeError`` where it is neither, ``ValueError`` on a missing column or a null.
    """
    if is_text(read_arrow(frame, name).type):
        return as_keys(f"column {name!r}", read_texts(frame, name))
    return read_ids(frame, name)


def tell_of_encoded_ids(column: ColumnSchema) -> None:
    """Log a warning where Categorify made the ids of ``column``, which nobody named."""
    if "cat_path" in column.properties:
        logger.warning(
            "item ids: expected those of your data, got column %r, which Categorify numbered: "
            "results will have these numbers, and seen items and titles need them. Give the raw "
            "items and workflow=, or name a column with id_column",
            column.name,
        )
