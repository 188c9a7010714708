"""What can be told of a Dask frame before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dask
from dask.utils import is_dataframe_like

from merlin_poeem.arrays import type_name


def meta_of(ddf: Any, list_columns: Iterable[str] = ()) -> Any:
    """The frame without rows that tells the columns and dtypes of ``ddf``'s partitions.

    Raises ``TypeError`` where ``ddf`` is no Dask DataFrame, or where one of ``list_columns`` is of
    text: that is what Dask makes of the lists of an object column unless it is told otherwise.
    """
    if not dask.is_dask_collection(ddf) or not is_dataframe_like(getattr(ddf, "_meta", None)):
        raise TypeError(
            f"ddf: expected a Dask DataFrame, got {type_name(ddf)}; dask.dataframe.from_pandas "
            "makes one of a pandas DataFrame"
        )
    meta = ddf._meta
    for name in list_columns:
        if name in meta.columns and str(meta[name].dtype).startswith("str"):
            raise TypeError(
                f"column {name!r}: expected lists, got {meta[name].dtype}: Dask turns object "
                "columns into text; make the frame under "
                "dask.config.set({'dataframe.convert-string': False}), or of an Arrow list dtype"
            )
    return meta
