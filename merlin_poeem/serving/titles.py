"""A column of an index's item table, as texts by item id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64

if TYPE_CHECKING:
    import pandas as pd

NOTHING = b""
"""Of an item that the table says nothing about."""


class Titles:
    """The texts of a column, held as one Arrow array."""

    def __init__(self, table: pd.DataFrame, column: str) -> None:
        """Of an item table; its other values are written as Python writes them."""
        import pyarrow as pa  # here, as only a server with titles needs it

        order = np.argsort(table["item_id"].to_numpy(), kind="stable")
        values = table[column].astype(object).where(table[column].notna(), None)
        texts = [None if value is None else str(value) for value in values.iloc[order]]
        self._item_ids: Int64 = table["item_id"].to_numpy()[order]
        self._texts = pa.array(texts, pa.large_string())

    def of(self, item_ids: Int64) -> NDArray[np.object_]:
        """(n,) bytes, UTF-8, of (n,) item ids."""
        found = np.full(len(item_ids), NOTHING, object)
        if not len(self._item_ids):
            return found
        places = np.searchsorted(self._item_ids, item_ids).clip(max=len(self._item_ids) - 1)
        known = np.flatnonzero(self._item_ids[places] == item_ids)
        texts = self._texts.take(places[known]).to_pylist()
        found[known] = [NOTHING if text is None else text.encode() for text in texts]
        return found
