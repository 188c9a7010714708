"""What a search must not, or may only, return: as the kernels take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.shared_memory import THREADS, WARPS
from merlin_poeem.search.item_set import ItemSet
from merlin_poeem.search.ragged import IdLists


@dataclass(frozen=True, eq=False)
class Filters:
    """What a search must not, or may only, return; each None where there is no such filter."""

    eligible_mask: Any = None
    """(n_groups,) uint32, a bit an item, for all queries: :meth:`ItemGroups.eligible_mask`."""
    exclude_offsets: Any = None
    """(n + 1,) int64 into ``exclude_ids``."""
    exclude_ids: Any = None
    """int64, sorted within each query."""
    allow_offsets: Any = None
    allow_ids: Any = None

    def __bool__(self) -> bool:
        return any(each is not None for each in vars(self).values())

    def __getitem__(self, queries: slice) -> Filters:
        ends = slice(queries.start, queries.stop + 1)
        exclude, allow = self.exclude_offsets, self.allow_offsets
        return Filters(
            self.eligible_mask,
            None if exclude is None else exclude[ends],
            self.exclude_ids,
            None if allow is None else allow[ends],
            self.allow_ids,
        )


NO_FILTERS = Filters()


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """Items of an index as item sets are marked among them: lists, each in groups of 32."""

    item_ids: Any
    """(n_items,) int64."""
    group_offsets: Any
    """(n_lists + 1,) uint32."""
    row_offsets: Any
    """(n_lists + 1,) uint32."""
    n_groups: int

    @classmethod
    def of_one_list(cls, xp: ModuleType, item_ids: Any) -> ItemGroups:
        """Of an index without lists; ``item_ids`` on the device."""
        n_groups = -(-len(item_ids) // 32)
        group_offsets = xp.asarray(np.array([0, n_groups], np.uint32))
        row_offsets = xp.asarray(np.array([0, len(item_ids)], np.uint32))
        return cls(item_ids, group_offsets, row_offsets, n_groups)

    def eligible_mask(self, device: Device, exclude: ItemSet | None, allow: ItemSet | None) -> Any:
        """(n_groups,) uint32, a bit an item: whether a search may return it; None if any."""
        mask = None
        for item_set, complement in ((allow, 0), (exclude, 1)):
            if item_set is not None:
                mask = self._mark(device, mask, item_set, complement)
        return mask

    def _mark(self, device: Device, mask: Any, item_set: ItemSet, complement: int) -> Any:
        ids = device.xp.asarray(item_set.item_ids)
        marked = device.xp.empty(self.n_groups, np.uint32)
        device.kernel("layout.cu", "mark_items")(
            (-(-self.n_groups // WARPS),),
            (THREADS,),
            (
                *(self.item_ids, ids, self.group_offsets, self.row_offsets, mask),
                *(np.int32(len(self.row_offsets) - 1), np.uint32(self.n_groups)),
                *(np.int64(len(ids)), np.int32(complement), marked),
            ),
        )
        return marked


def sorted_lists(
    xp: ModuleType, lists: IdLists | None, number_of: Callable[[Any], Any] | None = None
) -> tuple[Any, Any]:
    """Offsets and values of ``lists`` on the device, each row sorted.

    ``number_of`` gives the values that stand for ids, such as ranks; None: ids themselves.
    """
    if lists is None:
        return None, None
    offsets, values = xp.asarray(lists.offsets), xp.asarray(lists.values)
    if number_of is not None:
        values = number_of(values)
    rows = xp.searchsorted(offsets[1:], xp.arange(len(values)), side="right")
    return offsets, values[xp.lexsort(xp.stack((values, rows)))]
