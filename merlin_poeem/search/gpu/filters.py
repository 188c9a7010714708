"""What a search must not, or may only, return: as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Filters:
    """What a search must not, or may only, return; each None where there is no such filter."""

    eligible_mask: Any = None
    """(n_groups,) uint32, a bit an item, for all queries: ``DeviceIndex.eligible_mask``."""
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
