"""A set of item ids that holds for every query alike, such as what is sold out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.arrays import Int64, as_item_ids, to_host
from merlin_poeem.search.ragged import IdLists


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Items that no query of a search may return, or the only ones that any may.

    Costs a search the same for one query as for many, where an
    :class:`~merlin_poeem.IdLists` would repeat the ids for each. Made once, it serves any
    number of searches.
    """

    item_ids: Int64
    """(n,) int64, sorted, each once, read-only, NumPy; taken in any order, with repeats."""

    def __post_init__(self) -> None:
        item_ids = np.unique(to_host(as_item_ids("item_ids", self.item_ids)))
        item_ids.setflags(write=False)
        object.__setattr__(self, "item_ids", item_ids)

    def __len__(self) -> int:
        return len(self.item_ids)

    def row(self, i: int) -> Int64:
        """The ids for query ``i``: all of them, as for every query."""
        return self.item_ids


ItemFilter = IdLists | ItemSet


def as_item_filter(name: str, given: Any, n_queries: int) -> ItemFilter | None:
    """``given`` checked: an ItemSet, lists for ``n_queries`` queries in any form, or None."""
    if given is None or isinstance(given, ItemSet):
        return given
    return IdLists.of(name, given, n_queries)
