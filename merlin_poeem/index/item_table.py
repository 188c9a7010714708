"""The table of an index: what it may hold, how it grows, and what a file makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from merlin_poeem.arrays import Int64, as_item_ids, check_unique, type_name

if TYPE_CHECKING:
    import pandas as pd

# What pandas calls values, where several of its names are cast to each other. A column of objects
# that holds nothing is taken for one of texts.
_KINDS = {
    "integer": "numbers",
    "floating": "numbers",
    "mixed-integer-float": "numbers",
    "string": "texts",
    "categorical": "texts",
    "empty": "texts",
}


def check_item_table(item_table: Any) -> pd.DataFrame:
    """A copy of ``item_table``, rows numbered from 0, ``item_id`` int64.

    Raises
    ------
    TypeError
        Not a pandas frame, or ids that are null or no integers.
    ValueError
        A column whose name is no text or repeats, no ``item_id``, an id that repeats, or a column
        that would come back from a saved index with another dtype.
    """
    import pandas as pd  # here, because importing it takes longer than all else together

    if not isinstance(item_table, pd.DataFrame):
        remedy = "; take its to_pandas()" if hasattr(item_table, "to_pandas") else ""
        raise TypeError(
            f"item_table: expected a pandas DataFrame, got {type_name(item_table)}{remedy}"
        )
    check_column_names(item_table.columns)
    if "item_id" not in item_table:
        raise ValueError(
            f"item_table: expected a column item_id, got {[str(c) for c in item_table.columns]}"
        )
    item_ids = as_item_ids("item_table.item_id", item_table["item_id"].to_numpy())
    check_unique("item_table.item_id", item_ids)
    table = pd.DataFrame(item_table.copy())
    table.index, table.columns = pd.RangeIndex(len(table)), list(map(str, table.columns))
    table["item_id"] = item_ids
    for name in _empty_categories(table):
        table[name] = table[name].astype(_no_texts(ordered=table[name].cat.ordered))
    _check_dtypes(table)
    return table


def check_column_names(names: Iterable[Any]) -> None:
    """``ValueError`` naming the first of the column ``names`` that is no text, or repeats."""
    seen = set()
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"item_table: column {name!r}: expected a name of text, got {type_name(name)}; "
                "rename it"
            )
        if name in seen:
            raise ValueError(f"item_table: column {name!r}: expected it once, got it repeated")
        seen.add(name)


def check_rows(table: pd.DataFrame, item_ids: Int64, items: str) -> None:
    """``ValueError`` naming a few rows of a checked table that are about none of ``item_ids``.

    ``items`` is what the message calls those.
    """
    others = table["item_id"][~table["item_id"].isin(item_ids)]
    if len(others):
        raise ValueError(
            f"item_table: expected rows of {items} alone, got {len(others)} of other ids, "
            f"such as {others[:3].tolist()}; drop them"
        )


def extend_item_table(table: pd.DataFrame, added: Any, item_ids: Int64) -> pd.DataFrame:
    """``table`` and the rows of ``added``, which are about some of the added ``item_ids``.

    A column keeps its dtype, save that integers and bools become nullable ones where nulls are
    added, and categories of text those of both.

    Raises ``TypeError`` or ``ValueError`` as :func:`check_item_table`, on rows of other ids, on
    other columns than ``table`` has, and on values that the dtype of their column can't hold.
    """
    import pandas as pd

    added = check_item_table(added)
    check_rows(added, item_ids, "the added items")
    missing = [name for name in table.columns if name not in added]
    unknown = [name for name in added.columns if name not in table]
    if missing:
        raise ValueError(
            f"item_table: expected the columns of the index's table, got none of {missing}"
        )
    if unknown:
        raise ValueError(
            f"item_table: expected the index's columns alone, got {unknown} beside them"
        )
    return pd.DataFrame({name: _extend(name, table[name], added[name]) for name in table.columns})


def nullable_dtype(dtype: Any) -> Any:
    """The dtype of the same integers or bools with room for nulls; any other as it is."""
    import pandas as pd

    if isinstance(dtype, np.dtype) and dtype.kind in "iub":
        return pd.array(np.empty(0, dtype)).dtype
    return dtype


def to_parquet(table: pd.DataFrame) -> bytes:
    """``table`` as a Parquet file; ``ValueError`` where it would come back as another one."""
    check_column_names(table.columns)
    _check_dtypes(table)
    return _parquet_of(table)


def from_parquet(content: Any) -> pd.DataFrame:
    """The checked table in ``content``, the bytes of a Parquet file or a buffer of them.

    Raises Arrow's errors, and as :func:`check_item_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(content)))
    return check_item_table(table.to_pandas())


def _extend(name: str, held: pd.Series, added: pd.Series) -> pd.Series:
    import pandas as pd

    dtype = _extended_dtype(held.dtype, added)
    cast = _cast(added, dtype, kind=_kind_of(held))
    if cast is None:
        raise ValueError(
            f"item_table: column {name!r}: expected {dtype}, as the index's table has it, or "
            f"values that it holds unchanged; got {added.dtype}"
        )
    held = held if held.dtype == dtype else held.astype(dtype)
    return pd.concat([held, cast], ignore_index=True)


def _extended_dtype(dtype: Any, added: pd.Series) -> Any:
    """``dtype`` with room for the nulls and, where order means nothing, the texts of ``added``."""
    import pandas as pd

    if isinstance(dtype, pd.CategoricalDtype):
        if dtype.ordered or _kind_of(added) != "texts":
            return dtype
        is_category = isinstance(added.dtype, pd.CategoricalDtype)
        values = added.cat.categories if is_category else added.dropna().unique()
        texts = [text for text in values if text not in dtype.categories]
        return pd.CategoricalDtype([*dtype.categories, *texts]) if texts else dtype
    return nullable_dtype(dtype) if added.isna().any() else dtype


def _cast(added: pd.Series, dtype: Any, *, kind: str) -> pd.Series | None:
    """``added`` as a column of ``dtype``, which holds that ``kind``; None where that changes it."""
    import pandas as pd

    if added.dtype == dtype:
        return added
    if added.isna().all():
        return pd.Series(None, index=added.index, dtype=dtype)
    if _kind_of(added) != kind:
        return None
    if isinstance(dtype, pd.CategoricalDtype) and not added.dropna().isin(dtype.categories).all():
        return None
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            cast = added.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    return cast if _are_same(added, cast) else None


def _kind_of(column: pd.Series) -> str:
    """Of what kind its values are: ``"numbers"``, ``"texts"``, or as pandas calls it."""
    import pandas as pd

    kind: str = pd.api.types.infer_dtype(column, skipna=True)
    zone = " in a zone" if getattr(column.dtype, "tz", None) else ""
    return _KINDS.get(kind, kind) + zone


def _are_same(ours: pd.Series, theirs: pd.Series) -> bool:
    """Whether nulls and values are equal, compared exactly, as Python's objects."""
    known = ours.notna()
    pairs = zip(ours[known].astype(object), theirs[known].astype(object), strict=True)
    return bool((known == theirs.notna()).all()) and all(a == b for a, b in pairs)


def _empty_categories(table: pd.DataFrame) -> list[str]:
    """The columns of categories of which there are none."""
    import pandas as pd

    return [
        name
        for name, dtype in table.dtypes.items()
        if isinstance(dtype, pd.CategoricalDtype) and not len(dtype.categories)
    ]


def _no_texts(*, ordered: bool) -> Any:
    """Categories of text, none yet; a file takes those of no type for numbers or nulls."""
    import pandas as pd

    return pd.CategoricalDtype(pd.Index([], dtype="string"), ordered)


def _check_dtypes(table: pd.DataFrame) -> None:
    """``ValueError`` naming the first column that a file would give back with another dtype.

    What a column of objects comes back as its rows decide: those are not judged.
    """
    import pandas as pd

    stored = _stored_dtypes(table)
    for name, dtype in table.dtypes.items():
        if not pd.api.types.is_object_dtype(dtype) and str(dtype) != str(stored[name]):
            raise ValueError(
                f"item_table: column {name!r}: expected a dtype that a saved index gives back, got "
                f"{dtype}, which would become {stored[name]}; cast it, as with "
                f"astype('{stored[name]}')"
            )


def _stored_dtypes(table: pd.DataFrame) -> pd.Series:
    import pyarrow as pa
    import pyarrow.parquet

    # Of the schema alone: PyArrow 15 crashes on reading no rows of intervals.
    schema = pyarrow.parquet.read_schema(pa.BufferReader(_parquet_of(table.head(0))))
    return schema.empty_table().to_pandas().dtypes


def _parquet_of(table: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    try:
        pyarrow.parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), sink)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise ValueError(f"item_table: expected columns that Parquet can hold; {error}") from error
    return bytes(sink.getvalue())
