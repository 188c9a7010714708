"""What is known about found items, and items as queries: item → items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merlin_poeem.arrays import as_item_ids, type_name
from merlin_poeem.frames.columns import column_of, read_ids, read_texts
from merlin_poeem.frames.list_writer import matrix_column
from merlin_poeem.frames.search_frame import search_frame
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.index.item_keys import KEY_COLUMN, as_keys
from merlin_poeem.index.item_table import nullable_dtype
from merlin_poeem.search.searcher import AnySearcher

if TYPE_CHECKING:
    import pandas as pd


def with_items(found: pd.DataFrame, index: Index | FlatIndex) -> pd.DataFrame:
    """``found`` joined to the columns of ``index.item_table``, such as titles; rows keep order.

    ``found`` is a pandas frame with an ``item_id``, integers or the index's keys, as the long form
    of :func:`~merlin_poeem.search_frame` (of a cuDF frame: its ``to_pandas()``). Items
    that the table does not hold get nulls, and its integers and bools become nullable ones then.

    Raises
    ------
    TypeError
        Not a pandas frame, or ``item_id`` not of the index's ids.
    ValueError
        The index has no item table, or table and frame share a column.
    """
    if type(found).__module__.partition(".")[0] != "pandas" or "item_id" not in found:
        raise TypeError(
            "found: expected a pandas frame with item_id, as search_frame returns it; "
            f"got {type_name(found)}"
        )
    table = index.item_table
    if table is None:
        raise ValueError("index: expected an item table, got none; name its columns when indexing")
    if index.has_item_keys:
        as_keys("found.item_id", found["item_id"])
        table = table.drop(columns="item_id").rename(columns={KEY_COLUMN: "item_id"})
    else:
        # As int64: pandas joins unsigned ids as floats, which round.
        found = found.assign(item_id=as_item_ids("found.item_id", found["item_id"].to_numpy()))
    shared = sorted(set(found.columns) & set(table.columns) - {"item_id"})
    if shared:
        raise ValueError(
            f"found: expected other columns than the item table's, got {shared}: rename them "
            "there, as with index.with_item_table(index.item_table.rename(columns=...))"
        )
    # A few rows of a table that may have millions.
    table = table[table["item_id"].isin(found["item_id"])]
    if not found["item_id"].isin(table["item_id"]).all():
        dtypes = table.drop(columns="item_id").dtypes
        table = table.astype({name: nullable_dtype(dtype) for name, dtype in dtypes.items()})
    joined = found.merge(table, on="item_id", how="left", sort=False)
    # Of no rows, pandas 1.5 puts the key last.
    return joined[[*found.columns, *table.columns.drop("item_id")]]


def like_rows(
    searcher: AnySearcher,
    frame: Any,
    *,
    k: int,
    row_id: str = "item_id",
    vectors: str = "embedding",
    n_probes: int | None = None,
    refine: int | None = None,
    progress: bool = True,
) -> Any:
    """The nearest items of each row, never the row itself: ``like, rank, item_id, score``.

    ``row_id`` is the column of the rows' own ids, which are ids of the index: this is item → items
    with items indexed, and user → users with users (``row_id="user_id"``). The result has them as
    ``like``, whatever that column is called, as :func:`like_items` does. ``vectors`` is a column as
    of :func:`~merlin_poeem.search_frame`, and so are ``n_probes``, ``refine`` and ``progress``.

    Raises ``TypeError`` or ``ValueError`` on ids that are null or no integers, and as
    :func:`~merlin_poeem.search_frame`.
    """
    has_keys = searcher.index.has_item_keys
    ids: Any = np.array(read_texts(frame, row_id), object) if has_keys else read_ids(frame, row_id)
    itself = matrix_column(frame, ids[:, None])
    return search_frame(
        searcher,
        frame.assign(like=column_of(frame, row_id), itself=itself),
        k=k,
        vectors=vectors,
        query_id="like",
        exclude="itself",
        n_probes=n_probes,
        refine=refine,
        progress=progress,
    )


def like_items(
    searcher: AnySearcher,
    item_ids: Any,
    *,
    k: int,
    n_probes: int | None = None,
    refine: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The nearest items of each item held, never itself: ``like, rank, item_id, score``.

    ``item_ids`` are integers, or the keys of an index that has keys.

    The queries are the items' own vectors where the index holds them, and else what their codes
    are decoded as. ``n_probes``, ``refine`` and ``progress`` are as of
    :func:`~merlin_poeem.search_frame`.

    Raises ``TypeError`` or ``ValueError`` on ids that the index does not hold, and as
    :func:`~merlin_poeem.search_frame`.
    """
    import pandas as pd  # here, because importing it takes longer than all else together

    index = searcher.index
    as_ids = as_keys if index.has_item_keys else as_item_ids
    item_ids = as_ids("item_ids", item_ids)
    if isinstance(index, FlatIndex) or index.has_vectors:
        own = index.vectors_of(item_ids)
    else:
        own = index.decode(item_ids)
    decoded = pd.Series(list(own), dtype=object)
    frame = pd.DataFrame({"like": item_ids, "embedding": decoded})
    return like_rows(
        searcher,
        frame,
        k=k,
        row_id="like",
        n_probes=n_probes,
        refine=refine,
        progress=progress,
    )
