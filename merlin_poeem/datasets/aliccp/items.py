"""The items that rows are about: the catalog where no list of items comes with the rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa

from merlin_poeem.datasets.aliccp.fields import CATALOG_COLUMNS


def distinct_items(tables: Iterable[pa.Table]) -> pd.DataFrame:
    """``CATALOG_COLUMNS`` of every item id, from its first row; memory is bounded by the items."""
    found = pd.DataFrame({name: pd.array([], "Int64") for name in CATALOG_COLUMNS})
    waiting: list[pd.DataFrame] = []
    for table in tables:
        rows = pd.DataFrame(
            {name: pd.array(table[name].to_pylist(), "Int64") for name in CATALOG_COLUMNS}
        )
        waiting.append(rows.dropna(subset=["item_id"]).drop_duplicates("item_id"))
        if sum(map(len, waiting)) > max(len(found), 100_000):
            found, waiting = _first_of_each(found, waiting), []
    return _first_of_each(found, waiting).astype({"item_id": np.int64})


def _first_of_each(found: pd.DataFrame, waiting: list[pd.DataFrame]) -> pd.DataFrame:
    rows = pd.concat([found, *waiting], ignore_index=True)
    return rows.drop_duplicates("item_id", ignore_index=True)
