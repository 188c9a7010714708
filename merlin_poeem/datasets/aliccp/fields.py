"""Ali-CCP's fields, and the one schema of its tables.

A row is an impression, each value of a repeated field an entry of a list column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Field:
    """One of the publisher's feature fields."""

    number: str
    """As the raw files name it, such as ``109_14``."""
    name: str
    """As Merlin names it, such as ``user_categories``."""
    is_list: bool = False
    """Whether a row may hold several values."""
    is_weighted: bool = False
    """Whether a value has a weight, such as a count of visits."""

    @property
    def weights(self) -> str:
        """The column of the weights, one a value."""
        return f"{self.name}_weights"

    @property
    def columns(self) -> list[tuple[str, pa.DataType]]:
        """The table's columns of this field."""
        values = pa.list_(pa.int64()) if self.is_list else pa.int64()
        weights = [(self.weights, pa.list_(pa.float32()))] if self.is_weighted else []
        return [(self.name, values), *weights]


USER_FIELDS = (
    Field("101", "user_id"),
    Field("121", "user_profile"),
    Field("122", "user_group"),
    Field("124", "user_gender"),
    Field("125", "user_age"),
    Field("126", "user_consumption_1"),
    Field("127", "user_consumption_2"),
    Field("128", "user_is_occupied"),
    Field("129", "user_geography"),
    Field("109_14", "user_categories", is_list=True, is_weighted=True),
    Field("110_14", "user_shops", is_list=True, is_weighted=True),
    Field("127_14", "user_brands", is_list=True, is_weighted=True),
    Field("150_14", "user_intentions", is_list=True, is_weighted=True),
)
SAMPLE_FIELDS = (
    Field("205", "item_id"),
    Field("206", "item_category"),
    Field("207", "item_shop"),
    Field("210", "item_intention", is_list=True),
    Field("216", "item_brand"),
    Field("508", "user_item_categories", is_list=True, is_weighted=True),
    Field("509", "user_item_shops", is_list=True, is_weighted=True),
    Field("702", "user_item_brands", is_list=True, is_weighted=True),
    Field("853", "user_item_intentions", is_list=True, is_weighted=True),
    Field("301", "position"),
)
FIELDS = USER_FIELDS + SAMPLE_FIELDS
CATALOG_COLUMNS = ("item_id", "item_category", "item_shop", "item_brand")
HEAD = (("sample_id", pa.int64()), ("click", pa.int8()), ("conversion", pa.int8()))
SCHEMA = pa.schema([*HEAD, *(column for f in FIELDS for column in f.columns)])
USER_SCHEMA = pa.schema([column for f in USER_FIELDS for column in f.columns])


def list_column(rows: NDArray[np.integer[Any]], values: NDArray[Any], n_rows: int) -> pa.Array:
    """A list for each of ``n_rows`` rows; ``values`` come in the order of their ``rows``."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))
