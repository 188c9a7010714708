"""A hint where ids in ``exclude`` or ``allow`` are likely those before or after Categorify."""

from __future__ import annotations

import logging
from threading import Event
from typing import Any

import numpy as np

from merlin_poeem.arrays import array_module
from merlin_poeem.frames.queries import Queries, SearchOptions
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.search.ragged import IdLists

FEWEST = 20
"""Ids that tell something: fewer may well all be of items that are gone."""
MOST = 10_000
"""Ids that are looked up."""

logger = logging.getLogger(__name__)

_told = Event()


def tell_of_unknown(index: Index | FlatIndex, queries: Queries, options: SearchOptions) -> None:
    """Log, once a process, where of 20 ids or more in a column the index holds none.

    Of columns that are on the device it is not asked: that would wait for it.
    """
    if _told.is_set() or not len(index):
        return
    for name in ("exclude", "allow"):
        lists = getattr(queries, name)
        if isinstance(lists, IdLists) and array_module(lists.values) is np:
            _tell(index, name, getattr(options, name), lists)


def _tell(index: Index | FlatIndex, name: str, column: Any, lists: IdLists) -> None:
    keys, some = index.item_keys, lists.values[:MOST]
    # Keys that are not known are all the same by now.
    some = np.unique(some) if keys is None else some
    if len(some) < FEWEST or (index.rows_of(some) >= 0).any():
        return
    _told.set()
    held = index.item_ids[:3]
    shown = held.tolist() if keys is None else keys.keys_of(held).tolist()
    got = "other texts" if keys is not None else f"others, such as {some[:3].tolist()}"
    logger.warning(
        "%s: expected ids as the index has them, such as %s; column %r has %s: none of %d is in "
        "the index. Are they from before or after Categorify?",
        name,
        shown,
        column,
        got,
        len(some),
    )
