"""A way to search, ours or a peer's, behind one call; and how its results come to the host.

All of them work on the CUDA stream that is current when they are opened, on queries that lie on the
device already, and leave their results there: only then are times by events of that stream fair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.catalogs import Catalog
from benchmarks.device_catalogs import DeviceCatalog
from merlin_poeem import Candidates
from merlin_poeem.arrays import Float32, Int64, to_host

SMALL_BATCH = 32
NO_ID = -1

Hits = tuple[Float32, Int64]


@dataclass(frozen=True)
class Backend:
    """A way to search, ours or a peer's."""

    name: str
    version: str
    search: Callable[[Any, int, int], Any]
    """(queries, k, n_probes) → a result as the backend gives it, on the device."""
    read: Callable[[Any, int], Hits]
    """(result, k) → scores (n, k) float32 and item ids (n, k) int64, on the host; not timed."""
    on_device: bool = True
    """False: queries and results are NumPy arrays, and time is the wall clock's."""
    peer: str | None = None
    """The library that it is of; None for ours."""
    is_exact: bool = False
    """Scores float vectors, all of them: knows no lists and no codes."""
    max_batch: int | None = None
    """Larger batches are left out, as they would take minutes."""
    note: str = ""

    def takes(self, batch: int) -> bool:
        """Whether batches of this size are measured."""
        return self.max_batch is None or batch <= self.max_batch

    def search_to_host(self, queries: Any, k: int, n_probes: int) -> Hits:
        """(scores, item ids), both (n, k) NumPy arrays, of ``queries`` on the device."""
        if not self.on_device:
            queries = to_host(queries)
        return self.read(self.search(queries, k, n_probes), k)


def read_candidates(candidates: Candidates, k: int) -> Hits:
    """A searcher's answer, its arrays NumPy's or CuPy's, as (n, k) arrays; NO_ID fills rows up."""
    return candidates.to_host().padded(k, fill_id=NO_ID)


def read_arrays(result: Any, k: int) -> Hits:
    """Of ``(scores, item ids)`` on the device."""
    scores, item_ids = result
    return on_host(scores), on_host(item_ids)


def read_rows(catalog: Catalog | DeviceCatalog) -> Callable[[Any, int], Hits]:
    """Reads ``(scores, rows of the catalog)`` on the device."""

    def read(result: Any, k: int) -> Hits:
        scores, rows = result
        return on_host(scores), catalog.item_ids(on_host(rows))

    return read


def first_line(error: Exception) -> str:
    """What ``error`` says, without the traces that CUDA libraries append."""
    return str(error).splitlines()[0] if str(error) else repr(error)


def on_host(array: Any) -> np.ndarray:
    """A NumPy, CuPy or Torch array as NumPy's."""
    if hasattr(array, "cpu"):
        import torch

        torch.cuda.synchronize()  # it was made on a stream that is not Torch's current one now
        array = array.cpu().numpy()
    return array.get() if hasattr(array, "get") else np.asarray(array)
