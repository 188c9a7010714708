"""Item ids as frames have them: integers, or the keys of an index that has keys.

Keys are read and looked up on the host, also of cuDF frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from merlin_poeem.arrays import Int64, to_host
from merlin_poeem.frames.columns import (
    read_id_lists,
    read_ids,
    read_text_lists,
    read_texts,
)
from merlin_poeem.frames.list_writer import list_column
from merlin_poeem.index.item_keys import ItemKeys, are_texts
from merlin_poeem.search.item_set import ItemSet
from merlin_poeem.search.ragged import IdLists, offsets_of


def read_item_ids(frame: Any, name: str, keys: ItemKeys | None) -> Int64:
    """The items in the column ``name`` by their int64 ids, (n,), on the host.

    Of an index with ``keys`` the column has those, and −1 is what it does not hold. Raises
    ``TypeError`` or ``ValueError`` on a column that is missing, has nulls, or other ids.
    """
    if keys is None:
        return read_ids(frame, name)
    return keys.ids_of(read_texts(frame, name), f"column {name!r}")


def read_item_lists(
    frame: Any, name: str, keys: ItemKeys | None, *, on_device: bool = False
) -> IdLists:
    """The list of items of each row by their int64 ids; as :func:`read_item_ids`."""
    if keys is None:
        return read_id_lists(frame, name, on_device=on_device)
    lengths, texts = read_text_lists(frame, name)
    offsets, item_ids = offsets_of(lengths), keys.ids_of(texts)
    if on_device:
        import cupy

        return IdLists(cupy.asarray(offsets), cupy.asarray(item_ids))
    return IdLists(offsets, item_ids)


@dataclass(frozen=True)
class KeySet:
    """What an :class:`~merlin_poeem.ItemSet` is, by keys: what only an index can look up."""

    texts: tuple[str, ...]


def as_item_set(name: str, given: ItemSet | KeySet, keys: ItemKeys | None) -> ItemSet:
    """``given`` for all rows by int64 ids; ``TypeError`` where its ids are not as the index's."""
    if keys is None:
        if isinstance(given, KeySet):
            raise TypeError(
                f"{name}: expected the name of a column, or item ids for all rows, integers as the "
                f"index has them; got texts, such as {given.texts[0]!r}"
            )
        return given
    if isinstance(given, KeySet):
        return ItemSet(keys.ids_of(given.texts, name))
    if len(given):
        raise TypeError(
            f"{name}: expected texts, the item keys of the index, got {given.item_ids[0]} (int)"
        )
    return given


def lists_by_id(keys: ItemKeys | None, given: Any) -> Any:
    """``given``, where it is lists of texts or texts for all, by the int64 ids that they stand for.

    Anything else as it is, and all where the index has no ``keys``.
    """
    if keys is None or given is None or isinstance(given, IdLists | ItemSet):
        return given
    if are_texts(given):
        return ItemSet(keys.ids_of(list(given)))
    if not have_texts(given):
        return given
    return IdLists.from_rows([() if row is None else keys.ids_of(row) for row in given])


def have_texts(lists: Any) -> bool:
    """Whether ``lists``, a sequence of rows, has one of texts."""
    if isinstance(lists, IdLists | ItemSet) or not hasattr(lists, "__iter__"):
        return False
    return any(row is not None and are_texts(row) for row in lists)


def item_column(module: ModuleType, keys: ItemKeys | None, item_ids: Int64) -> Any:
    """(n,) ids of held items as a column of ``module``, pandas or cudf, of keys where there are."""
    if keys is None:
        return item_ids
    return module.Series(keys.keys_of(to_host(item_ids)).tolist(), dtype="str")


def item_lists(module: ModuleType, keys: ItemKeys | None, offsets: Int64, item_ids: Int64) -> Any:
    """Lists of held items as a list column of ``module``; as :func:`item_column`."""
    if keys is None:
        return list_column(module, offsets, item_ids)
    return list_column(module, to_host(offsets), keys.keys_of(to_host(item_ids)))
