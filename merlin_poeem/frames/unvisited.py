"""A hint where ``allow`` names items that lie in lists which a search did not visit."""

from __future__ import annotations

import logging
from threading import Event

import numpy as np

from merlin_poeem.arrays import Int64, array_module
from merlin_poeem.frames.queries import Queries, SearchOptions
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.search.item_set import ItemSet
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.searcher import AnySearcher

logger = logging.getLogger(__name__)

_told = Event()


def tell_of_unvisited(
    searcher: AnySearcher, queries: Queries, options: SearchOptions, found: Candidates
) -> None:
    """Log, once a process, how many queries got fewer of their allowed items than they could.

    Where all is found it costs a comparison for each query, and from the device one number is read.
    There a list counts in full, with ids that the index does not hold: it is not looked into.
    """
    index = searcher.index
    if isinstance(index, FlatIndex):
        return  # which has no lists
    n_probes = index.params.n_probes if options.n_probes is None else options.n_probes
    if _told.is_set() or not isinstance(queries.allow, IdLists) or n_probes == index.n_lists:
        return
    xp = array_module(found.counts)
    short = found.counts < xp.minimum(queries.allow.lengths, options.k)
    if xp is np and short.any():
        short = found.counts < np.minimum(_obtainable(index, queries), options.k)
    n_short = int(short.sum())
    if not n_short:
        return
    _told.set()
    logger.warning(
        "allow: %d of %d queries got fewer items than k = %d and their lists allow: the lists of "
        "the index that were visited (n_probes = %d of %d) hold no more of them; a higher n_probes "
        "may find the others",
        n_short,
        len(found),
        options.k,
        n_probes,
        index.n_lists,
    )


def _obtainable(index: Index, queries: Queries) -> Int64:
    """(n,), the allowed items of each query that the index holds and that are not excluded."""
    allow, exclude = queries.allow, queries.exclude
    assert isinstance(allow, IdLists)
    pairs = _pairs(index, allow)
    if isinstance(exclude, IdLists):
        pairs = np.setdiff1d(pairs, _pairs(index, exclude), assume_unique=True)
    elif isinstance(exclude, ItemSet):
        excluded = index.rows_of(exclude.item_ids)
        pairs = pairs[~np.isin(pairs % index.n_items, excluded)]
    return np.bincount(pairs // max(1, index.n_items), minlength=len(allow))


def _pairs(index: Index, lists: IdLists) -> Int64:
    """Each query and row of an item that it lists, as one number, ``query * n_items + row``."""
    rows = index.rows_of(lists.values)
    queries = np.repeat(np.arange(len(lists)), lists.lengths)
    held = rows >= 0
    return np.unique(queries[held] * index.n_items + rows[held])
