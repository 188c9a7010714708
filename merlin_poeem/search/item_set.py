"""A set of item ids that holds for every query alike, such as what is sold out."""

from __future__ import annotations

from collections.abc import Set as AnySet
from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.arrays import Int64, as_item_ids, to_host, type_name
from merlin_poeem.search.ragged import IdLists


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Items that no query of a search may return, or the only ones that any may.

    Costs a search the same for one query as for many, where an
    :class:`~merlin_poeem.IdLists` would repeat the ids for each. Made once, it serves any
    number of searches.
    """

    item_ids: Int64
    """(n,) int64, sorted, each once, read-only, NumPy; taken in any order, with repeats.

    From a list, tuple, set or range of integers, an array, NumPy's or CuPy's, or a Series or Index
    of pandas or cuDF.
    """

    def __post_init__(self) -> None:
        item_ids = np.unique(to_host(_ids_of("item_ids", self.item_ids)))
        item_ids.setflags(write=False)
        object.__setattr__(self, "item_ids", item_ids)

    def __len__(self) -> int:
        return len(self.item_ids)

    def row(self, i: int) -> Int64:
        """The ids for query ``i``: all of them, as for every query."""
        return self.item_ids

    @classmethod
    def of(cls, name: str, item_ids: Any) -> ItemSet:
        """From any flat collection of integers, which errors call ``name``."""
        return cls(_ids_of(name, item_ids))


ItemFilter = IdLists | ItemSet


def as_item_filter(name: str, given: Any, n_queries: int) -> ItemFilter | None:
    """``given`` checked: ids for all queries, lists for ``n_queries`` queries, or None.

    Ids for all are an ItemSet, or become one: see :func:`is_flat`. Lists come in any form.
    """
    if given is None or isinstance(given, ItemSet):
        return given
    if not _is_collection(given):
        raise TypeError(
            f"{name}: expected an ItemSet, item ids for all queries, or one list of ids a query; "
            f"got {type_name(given)}"
        )
    if is_flat(given):
        return ItemSet.of(name, given)
    if not len(given) and n_queries:
        raise ValueError(
            f"{name}: expected {n_queries} lists, one a query; got 0: "
            "ItemSet([]) is an empty set for all queries"
        )
    return IdLists.of(name, given, n_queries)


def is_flat(given: Any, *, if_empty: bool = False) -> bool:
    """Whether ``given`` is a collection of ids, and not of a list for each query.

    ``if_empty`` is the answer where it holds nothing, and its type does not tell either.
    """
    if isinstance(given, AnySet | range):
        return True
    if isinstance(given, IdLists) or not _is_collection(given):
        return False
    if hasattr(given, "dtype") and getattr(given.dtype, "kind", "O") in "iu":
        return len(given.shape) == 1
    if not len(given):
        return if_empty
    first = next((each for each in given if each is not None), None)
    return first is not None and not hasattr(first, "__len__")


def _is_collection(given: Any) -> bool:
    """Whether it has a length and is neither a text, which has one too, nor a frame."""
    try:
        len(given)
    except TypeError:
        return False
    return not isinstance(given, str | bytes) and not hasattr(given, "columns")


def _ids_of(name: str, given: Any) -> Int64:
    if isinstance(given, AnySet):
        given = list(given)
    elif hasattr(given, "dtype"):
        # A Series or Index by its array: cuDF's become none by themselves.
        given = getattr(given, "values", given)
    return as_item_ids(name, given)
