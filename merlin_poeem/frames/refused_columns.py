"""What errors say of a column that is refused: the first wrong row, and what helps.

Rows are counted from 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64, array_module, type_name

WITHOUT_NULLS = ": drop such rows with dropna, or fill them in"


def misfit(column: Any, error: Exception) -> str:
    """What is wrong with a pandas column that Arrow refused with ``error``."""
    if str(column.dtype) != "object":
        return f"expected numbers, texts or flat lists of numbers, got {column.dtype}"
    row = first_misfit(column)
    value, reason = column.iloc[row], str(error).partition("\n")[0]
    known = isinstance(value, str | bytes | list | dict | np.ndarray)
    is_list_like = hasattr(value, "__iter__") and not known
    remedy = ": make lists of such rows with .map(list, na_action='ignore')" if is_list_like else ""
    return (
        "expected rows of one kind, numbers, texts or flat lists of numbers; got "
        f"{type_name(value)} in row {row} ({reason}){remedy}"
    )


def first_misfit(column: Any) -> int:
    """The first row of a pandas column that Arrow does not take after those before it."""
    taken, refused = 0, len(column)
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if _is_taken(column.iloc[:middle]):
            taken = middle
        else:
            refused = middle
    return refused - 1


def way_to_ids(name: str, values: NDArray[Any], lengths: Int64 | None) -> str:
    """How a column of these values, or of lists of these ``lengths``, becomes one of ids."""
    if values.dtype.kind == "f":
        return _way_from_floats(name, values, lengths)
    if isinstance(values[0], np.ndarray):
        return f"make a row of each, with frame.explode({name!r})"
    return "give each value the integer that the index has for it, or the index its texts for keys"


def way_to_lists(name: str, arrow_type: Any) -> str:
    """How a column of this type becomes one of lists of numbers, where a column's method does."""
    import pyarrow as pa

    if pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type):
        return f": parse JSON arrays with frame[{name!r}].map(json.loads, na_action='ignore')"
    if pa.types.is_integer(arrow_type):
        return f": make lists of one with frame[{name!r}].map(lambda value: [value])"
    if hasattr(getattr(arrow_type, "value_type", None), "value_type"):  # lists of lists
        return f": flatten them with frame[{name!r}].map(numpy.ravel, na_action='ignore')"
    return ""


def row_of_first(marked: Any, lengths: Int64 | None) -> int:
    """The row of the first place that is ``marked``, of all rows' lists one after the other."""
    xp = array_module(marked)
    first = xp.flatnonzero(marked)[:1]
    if lengths is None:
        return int(first[0])
    return int(xp.searchsorted(xp.cumsum(xp.maximum(lengths, 0)), first, side="right")[0])


def _way_from_floats(name: str, values: NDArray[Any], lengths: Int64 | None) -> str:
    with np.errstate(invalid="ignore"):
        wrong = values % 1 != 0
    if wrong.any():
        return f"such as {values[wrong][0]} in row {row_of_first(wrong, lengths)}"
    if lengths is None:
        return f"cast it with frame[{name!r}].astype('int64')"
    return (
        f"cast them, in pandas with frame[{name!r}].map(lambda ids: list(map(int, ids)), "
        "na_action='ignore')"
    )


def _is_taken(column: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array(column, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True
