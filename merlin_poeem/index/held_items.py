"""Which items an index holds: what is asked of ids that come from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from merlin_poeem.arrays import Int64, as_item_ids
from merlin_poeem.index.item_table import extend_item_table

if TYPE_CHECKING:
    import pandas as pd


class HoldsItems(Protocol):
    """An index, of either kind."""

    def rows_of(self, item_ids: Int64) -> Int64:
        """Row of each id, −1 where the index does not hold it."""
        ...

    @property
    def item_table(self) -> pd.DataFrame | None:
        """Columns about the items."""
        ...


def known_rows(index: HoldsItems, item_ids: Any) -> Int64:
    """Rows of ``item_ids``; ``ValueError`` names some that ``index`` does not hold."""
    item_ids = as_item_ids("item_ids", item_ids)
    rows = index.rows_of(item_ids)
    unknown = item_ids[rows < 0]
    if len(unknown):
        raise ValueError(
            f"item_ids: expected ids in the index, got {len(unknown)} that are not, "
            f"such as {unknown[:3].tolist()}"
        )
    return rows


def refuse_held(index: HoldsItems, item_ids: Int64) -> None:
    """``ValueError`` names some of ``item_ids`` that ``index`` holds already."""
    held = item_ids[index.rows_of(item_ids) >= 0]
    if len(held):
        raise ValueError(
            f"item_ids: expected ids not yet in the index, got {len(held)} that are, "
            f"such as {held[:3].tolist()}; remove them first"
        )


def table_with(
    index: HoldsItems, added: pd.DataFrame | None, item_ids: Int64
) -> pd.DataFrame | None:
    """The item table of ``index`` and rows ``added`` about new ``item_ids``.

    ``ValueError`` where the index has none to add to, and as :func:`.extend_item_table`.
    """
    if added is None:
        return index.item_table
    if index.item_table is None:
        raise ValueError("item_table: expected none, as the index has none; got one")
    return extend_item_table(index.item_table, added, item_ids)
