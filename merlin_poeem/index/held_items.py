"""Which items an index holds: what is asked of ids that come from outside.

They are integers, or the texts of an index with keys: see :mod:`~merlin_poeem.index.item_keys`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from merlin_poeem.arrays import Int64, as_item_ids, check_unique
from merlin_poeem.index.item_keys import (
    INFO_KEY,
    KEY_COLUMN,
    LARGEST_ID,
    ItemKeys,
    are_texts,
    as_keys,
    check_info,
    check_unique_keys,
    keyed_table,
    keys_in,
)
from merlin_poeem.index.item_table import extend_item_table

if TYPE_CHECKING:
    import pandas as pd


class HeldItems(ABC):
    """Base of both kinds of index: their items' ids, and the keys that may stand for them."""

    info: dict[str, Any]
    item_ids: Int64
    item_table: pd.DataFrame | None

    @abstractmethod
    def rows_of(self, item_ids: Int64) -> Int64:
        """Row of each int64 id, −1 where the index does not hold it."""

    @property
    def has_item_keys(self) -> bool:
        """Whether texts stand for the item ids at every edge: ``item_keys``."""
        return bool(self.info.get(INFO_KEY))

    @cached_property
    def item_keys(self) -> ItemKeys | None:
        """The texts that frames, tables and methods of this index have for item ids, or None.

        ``item_keys.ids_of(texts)`` and ``item_keys.keys_of(ids)`` go to the int64 ids inside and
        back, for what takes arrays: a searcher, :func:`~merlin_poeem.tune`, the evaluation.
        """
        if not self.has_item_keys:
            return None
        return keys_in(self.item_table, self.item_ids)


def known_rows(index: HeldItems, item_ids: Any) -> Int64:
    """Rows of ``item_ids``; ``ValueError`` names some that ``index`` does not hold."""
    if index.item_keys is None:
        given: Any = as_item_ids("item_ids", item_ids)
        rows = index.rows_of(given)
    else:
        given = as_keys("item_ids", item_ids)
        rows = index.rows_of(index.item_keys.ids_of(given))
    unknown = given[rows < 0]
    if len(unknown):
        raise ValueError(
            f"item_ids: expected ids in the index, got {len(unknown)} that are not, "
            f"such as {unknown[:3].tolist()}"
        )
    return rows


def check_each_once(index: HeldItems, item_ids: Any) -> None:
    """``ValueError`` naming some of ``item_ids`` that repeat."""
    if index.has_item_keys:
        check_unique_keys("item_ids", as_keys("item_ids", item_ids))
    else:
        check_unique("item_ids", as_item_ids("item_ids", item_ids))


def refuse_held(index: HeldItems, item_ids: Int64) -> None:
    """``ValueError`` names some of ``item_ids`` that ``index`` holds already."""
    _refuse(item_ids[index.rows_of(item_ids) >= 0])


def numbered_items(
    item_ids: Any, item_table: Any, info: Mapping[str, Any] | None
) -> tuple[Any, Any, Mapping[str, Any] | None]:
    """Ids, table and info of a new index; where the ids are texts, those of an index with keys.

    They are numbered from 0 in their order, and the ``item_id`` of the table are texts too. Raises
    as :func:`.keyed_table` and :func:`.check_info`, and on texts that repeat.
    """
    if not are_texts(item_ids):
        return item_ids, item_table, info
    keys = as_keys("item_ids", item_ids)
    check_unique_keys("item_ids", keys)
    numbers = np.arange(len(keys), dtype=np.int64)
    table = keyed_table(numbers, keys, item_table)
    check_info(info, table)
    return numbers, table, {**(info or {}), INFO_KEY: True}


def numbered_additions(
    index: HeldItems, item_ids: Any, item_table: pd.DataFrame | None
) -> tuple[Any, pd.DataFrame | None]:
    """Ids and table of items to be added; where ``index`` has keys, numbered above all it holds.

    Raises ``TypeError`` or ``ValueError`` on keys that are no texts, that repeat or that the index
    holds already, and as :func:`.keyed_table`.
    """
    if index.item_keys is None:
        return item_ids, item_table
    keys = as_keys("item_ids", item_ids)
    check_unique_keys("item_ids", keys)
    _refuse(keys[index.item_keys.ids_of(keys) >= 0])
    start = int(index.item_ids.max()) + 1 if len(index.item_ids) else 0
    if start + len(keys) > LARGEST_ID:
        raise ValueError(
            f"item_ids: expected room above the index's ids, up to {LARGEST_ID}, got {start - 1}"
        )
    numbers = np.arange(start, start + len(keys), dtype=np.int64)
    table = keyed_table(numbers, keys, item_table)
    return numbers, table if item_table is not None else table.reindex(columns=_columns(index))


def table_with(index: HeldItems, added: pd.DataFrame | None, item_ids: Int64) -> Any:
    """The item table of ``index`` and rows ``added`` about new ``item_ids``.

    ``ValueError`` where the index has none to add to, and as :func:`.extend_item_table`.
    """
    if added is None:
        return index.item_table
    if index.item_table is None:
        raise ValueError("item_table: expected none, as the index has none; got one")
    return extend_item_table(index.item_table, added, item_ids)


def other_table(index: HeldItems, item_table: pd.DataFrame | None) -> pd.DataFrame | None:
    """``item_table`` as ``index`` would have it: with the keys, where it has some."""
    if index.item_keys is None:
        return item_table
    return keyed_table(index.item_ids, index.item_keys.keys_of(index.item_ids), item_table)


def table_with_keys(index: HeldItems, column: str) -> pd.DataFrame:
    """The item table of ``index``, whose texts in ``column`` become its keys.

    ``ValueError`` where there is no such column, and as :func:`.keys_in`.
    """
    table: pd.DataFrame | None = index.item_table
    if table is None or column not in table or column == "item_id":
        got = "no table" if table is None else list(table.columns)
        raise ValueError(
            f"column: expected one of the item table beside item_id, got {column!r} of {got}"
        )
    if column != KEY_COLUMN and KEY_COLUMN in table and not index.has_item_keys:
        raise ValueError(
            f"column: expected {KEY_COLUMN!r}, which the table has and would lose, got {column!r}: "
            "rename it first, with with_item_table"
        )
    if column != KEY_COLUMN:
        table = table.drop(columns=KEY_COLUMN, errors="ignore").rename(columns={column: KEY_COLUMN})
    keys_in(table, index.item_ids)
    return table


def _columns(index: Any) -> list[str]:
    return [str(name) for name in index.item_table.columns]


def _refuse(held: Any) -> None:
    if len(held):
        raise ValueError(
            f"item_ids: expected ids not yet in the index, got {len(held)} that are, "
            f"such as {held[:3].tolist()}; remove them first"
        )
