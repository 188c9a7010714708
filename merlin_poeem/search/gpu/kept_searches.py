"""What a searcher keeps of its searches on one stream, for those that come again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any, TypeVar

from merlin_poeem.search.gpu.rounding import power_of_two
from merlin_poeem.search.gpu.workspace import Workspace

Value = TypeVar("Value")

KEPT_SEARCHES = 64
"""Graphs of a stream, and as many pipelines."""


class KeptSearches:
    """Searches of one stream, ready to run again, all in one workspace: they run one by one.

    The workspace grows with the largest of them, to the next power of two if that is no more than
    ``limit`` and there is so much memory.
    """

    def __init__(self, xp: ModuleType, limit: int) -> None:
        self._xp, self._limit = xp, limit
        self._workspace = Workspace(xp, 0)
        # Apart, as pipelines are cheap to make, and graphs are not.
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self._pipelines: OrderedDict[Hashable, Any] = OrderedDict()

    def graph(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What ``make`` returned for ``key`` before, or returns now."""
        return _kept(self._graphs, key, make)

    def pipeline(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The same of pipelines."""
        return _kept(self._pipelines, key, make)

    def workspace(self, n_bytes: int) -> Workspace:
        """At least ``n_bytes``; searches in one that was too small are no longer kept."""
        if n_bytes > self._workspace.n_bytes:
            self._graphs.clear()
            self._pipelines.clear()
            # The old one goes first: the two need not be there at once.
            self._workspace = Workspace(self._xp, 0)
            wanted = max(n_bytes, min(power_of_two(n_bytes), self._limit))
            try:
                self._workspace = Workspace(self._xp, wanted)
            except MemoryError:
                self._workspace = Workspace(self._xp, n_bytes)
        return self._workspace


def _kept(entries: OrderedDict[Hashable, Any], key: Hashable, make: Callable[[], Value]) -> Value:
    if key in entries:
        entries.move_to_end(key)
        found: Value = entries[key]
        return found
    made = make()
    entries[key] = made
    if len(entries) > KEPT_SEARCHES:
        entries.popitem(last=False)
    return made
