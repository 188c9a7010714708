"""Item keys: texts that stand for an index's item ids at every edge.

Inside, an item has an int64 id, as codes, filters and kernels want it. The keys are a column of the
index's table, which is saved with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AnySet
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64, as_item_ids, type_name
from merlin_poeem.index.item_table import nullable_dtype

if TYPE_CHECKING:
    import pandas as pd

KEY_COLUMN = "item_key"
"""Of an index's table."""
INFO_KEY = "item_keys"
"""Of an index's ``info``: true where its edges have keys."""

UNKNOWN = -1
"""The id of a key that the index does not hold; no item of an index with keys has it."""
LARGEST_ID = 2**62
"""Of an item of such an index, so that new items find room above it."""

Keys = NDArray[np.object_]
"""(n,) Python texts."""


class ItemKeys:
    """The keys of an index's items, and the way from one to the other and back."""

    def __init__(self, item_ids: Int64, keys: Any) -> None:
        """``item_ids`` (n,) and the texts (n,) that stand for them.

        Raises ``TypeError`` where a key is no text, ``ValueError`` where one repeats or an id is
        below 0 or above 2**62.
        """
        self._item_ids = item_ids
        self._keys = as_keys("item_key", keys)
        check_unique_keys("item_key", self._keys)
        if len(item_ids) and not 0 <= item_ids.min() <= item_ids.max() <= LARGEST_ID:
            raise ValueError(
                f"item_ids: expected ids from 0 to {LARGEST_ID} where keys stand for them, got "
                f"{item_ids.min()} to {item_ids.max()}"
            )

    def __len__(self) -> int:
        return len(self._keys)

    def ids_of(self, keys: Any, name: str = "keys") -> Int64:
        """(n,) int64 ids of (n,) texts, −1 for a key that the index does not hold.

        Raises ``TypeError`` on anything but texts; ``name`` is what it calls them.
        """
        rows = self._by_key.get_indexer(as_keys(name, keys))
        if not len(self):
            return np.full(len(rows), UNKNOWN, np.int64)
        return np.where(rows >= 0, self._item_ids[rows], UNKNOWN)

    def keys_of(self, item_ids: Any) -> Keys:
        """(n,) texts of (n,) ids of items that the index holds; ``ValueError`` on others."""
        item_ids = as_item_ids("item_ids", item_ids)
        places = np.searchsorted(self._ids_in_order, item_ids)
        rows = self._order[np.minimum(places, len(self) - 1)] if len(self) else self._order
        known = self._item_ids[rows] == item_ids if len(self) else np.zeros(len(item_ids), bool)
        if not known.all():
            raise ValueError(
                f"item_ids: expected ids in the index, got {int((~known).sum())} others, such as "
                f"{item_ids[~known][:3].tolist()}"
            )
        keys: Keys = self._keys[rows]
        return keys

    @cached_property
    def _order(self) -> Int64:
        return np.argsort(self._item_ids, kind="stable")

    @cached_property
    def _ids_in_order(self) -> Int64:
        return self._item_ids[self._order]

    @cached_property
    def _by_key(self) -> pd.Index:
        import pandas as pd  # here, because importing it takes longer than all else together

        return pd.Index(self._keys, dtype=object)


def keys_in(table: pd.DataFrame | None, item_ids: Int64) -> ItemKeys:
    """Those of a table, which has one for each of ``item_ids``.

    Raises as :class:`ItemKeys`, and ``ValueError`` where the table or a key is missing.
    """
    if table is None or KEY_COLUMN not in table:
        got = "no table" if table is None else list(table.columns)
        raise ValueError(f"item_table: expected a column {KEY_COLUMN}, got {got}")
    if len(table) != len(item_ids):
        raise ValueError(
            f"item_table: expected a row with a key for each of {len(item_ids)} items, got "
            f"{len(table)}"
        )
    return ItemKeys(table["item_id"].to_numpy(), table[KEY_COLUMN])


def check_info(info: Mapping[str, Any] | None, table: Any) -> None:
    """``ValueError`` where ``info`` says that there are keys, and ``table`` has none."""
    value = (info or {}).get(INFO_KEY)
    has_keys = KEY_COLUMN in getattr(table, "columns", ())
    if value and not (value is True and has_keys):
        raise ValueError(
            f"info: expected no key {INFO_KEY!r}, which says that texts stand for the item ids; "
            f"got {value!r}: give it another name"
        )


def are_texts(given: Any) -> bool:
    """Whether ``given``, a column or collection of ids, has texts: its first value tells."""
    if isinstance(given, str | bytes) or getattr(given, "ndim", 1) != 1:
        return False
    values = getattr(given, "values", given)
    if getattr(getattr(values, "dtype", None), "kind", "O") in "iufb" or not hasattr(
        values, "__len__"
    ):
        return False
    return isinstance(next(iter(values), None), str)


def as_keys(name: str, given: Any) -> Keys:
    """A list, array or column of texts as (n,) objects; ``TypeError`` names another's first row."""
    import pandas as pd

    # A text would be taken for its letters, and a set has no order that is that of vectors.
    if isinstance(given, str | bytes | AnySet) or not hasattr(given, "__iter__"):
        raise TypeError(
            f"{name}: expected a list, array or column of texts, the item keys of the index, got "
            f"{given!r:.80} ({type_name(given)})"
        )
    # NumPy's own texts are subclasses, which show as such in messages.
    values = given.tolist() if isinstance(given, np.ndarray) else list(given)
    if pd.api.types.infer_dtype(values, skipna=False) not in ("string", "empty"):
        row = next(i for i, value in enumerate(values) if not isinstance(value, str))
        raise TypeError(
            f"{name}: expected texts, the item keys of the index, got {values[row]!r} "
            f"({type_name(values[row])}) in row {row}"
        )
    keys = np.empty(len(values), object)
    keys[:] = values
    return keys


def check_unique_keys(name: str, keys: Keys) -> None:
    """``ValueError`` naming a few keys that occur more than once."""
    import pandas as pd

    repeated = pd.unique(keys[pd.Index(keys, dtype=object).duplicated()])
    if len(repeated):
        raise ValueError(
            f"{name}: expected each once, got {len(repeated)} repeated, such as "
            f"{repeated[:3].tolist()}"
        )


def keyed_table(item_ids: Int64, keys: Keys, about: Any = None) -> pd.DataFrame:
    """A table of ``item_ids`` (n,) with their ``keys`` (n,) and what else is known about them.

    ``about`` is a frame whose ``item_id`` are keys, as whoever has keys has it; an item may have no
    row in it, and gets nulls. Raises ``TypeError`` where it is no pandas frame or its ids are no
    texts, ``ValueError`` where it has no ``item_id``, one that repeats or is none of the keys, or a
    column ``item_key``.
    """
    import pandas as pd

    table = pd.DataFrame({"item_id": item_ids, KEY_COLUMN: keys})
    if about is None:
        return table
    _check_about(about, keys)
    about = about.rename(columns={"item_id": KEY_COLUMN})
    about = about.assign(**{KEY_COLUMN: as_keys("item_table.item_id", about[KEY_COLUMN])})
    if len(about) < len(keys):
        about = about.astype({name: nullable_dtype(dtype) for name, dtype in about.dtypes.items()})
    return table.merge(about, on=KEY_COLUMN, how="left", sort=False)


def _check_about(about: Any, keys: Keys) -> None:
    import pandas as pd

    if not isinstance(about, pd.DataFrame):
        raise TypeError(f"item_table: expected a pandas DataFrame, got {type_name(about)}")
    if KEY_COLUMN in about:
        raise ValueError(
            f"item_table: column {KEY_COLUMN!r}: expected another name, as keys are kept under it"
        )
    if "item_id" not in about:
        raise ValueError(
            f"item_table: expected a column item_id, got {[str(c) for c in about.columns]}"
        )
    given = as_keys("item_table.item_id", about["item_id"])
    check_unique_keys("item_table.item_id", given)
    others = given[~pd.Index(given, dtype=object).isin(keys)]
    if len(others):
        raise ValueError(
            f"item_table: expected rows of the index's items alone, got {len(others)} of other "
            f"ids, such as {others[:3].tolist()}; drop them"
        )
