"""Searchers that are made to go one way, whatever the plan for so small a search would be."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from merlin_poeem import Index
from merlin_poeem.search.gpu.device import Device
from merlin_poeem.search.gpu.plan import SearchPlan
from merlin_poeem.search.gpu.searcher import GpuSearcher
from tests.search.gpu.openers import BULK, COMPACT, SPLIT, ReplannedSearcher

Open = Callable[[Index, Device], GpuSearcher]


def changed(**changes: Any) -> Open:
    """Opens with ``changes`` to every plan."""

    def open_changed(index: Index, device: Any) -> GpuSearcher:
        return ReplannedSearcher(index, device, **changes)

    return open_changed


WAYS: dict[str, Open] = {
    "graph": GpuSearcher,
    "scan": changed(captured_batch=None, n_parts=1),
    "split parts": changed(captured_batch=None, n_parts=3),
    "split parts, chunks, unsorted probes": changed(**SPLIT),
    "unsorted probes": changed(captured_batch=None, sorts_probes=False),
    "compact LUT": changed(**COMPACT),
    "chunks": changed(captured_batch=None, chunk=7),
    "bulk": changed(**BULK),
    "bulk, chunks": changed(**BULK, chunk=7),
}


class ForcedSearcher(GpuSearcher):
    """Searches in bulk wherever that can be done, or never; without graphs."""

    def __init__(self, index: Index, device: Any, *, bulk: bool) -> None:
        self._bulk = bulk
        super().__init__(index, device)

    def plan(
        self,
        batch: int,
        k: int,
        n_probes: int | None = None,
        *,
        refine: int | None = None,
        id_lists: bool = False,
    ) -> SearchPlan:
        """The plan, had the model of the two paths said so."""
        with _model_says(self._bulk):
            plan = super().plan(batch, k, n_probes, refine=refine, id_lists=id_lists)
        return replace(plan, captured_batch=None)


@contextmanager
def _model_says(bulk: bool) -> Iterator[None]:
    """Within it, the bulk path is always or never the faster one."""
    planning: Any = importlib.import_module("merlin_poeem.search.gpu.plan")
    model = planning.is_bulk_faster
    planning.is_bulk_faster = lambda *_, **__: bulk
    try:
        yield
    finally:
        planning.is_bulk_faster = model
