"""Arrays as a list column: one list a row, of pandas or of cuDF."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64, array_module
from merlin_poeem.frames import cudf_calls
from merlin_poeem.frames.columns import library_of

MAX_LIST_VALUES = 2**31 - 1
"""cuDF's lists have int32 offsets."""


def matrix_column(frame: Any, matrix: NDArray[Any]) -> Any:
    """The rows of (n, width) ``matrix`` as a list column, labelled as ``frame``'s n rows are.

    ``ValueError`` where a cuDF column would get more values than the 2**31 − 1 that it can hold.
    """
    module, (n, width) = library_of(frame), matrix.shape
    _check_count(module, n * width)  # before all of it is copied
    column = list_column(module, np.arange(n + 1) * width, matrix.ravel())
    column.index = frame.index
    return column


def list_column(module: ModuleType, offsets: Int64, values: NDArray[Any]) -> Any:
    """One list per row: in pandas an object column of arrays, in cuDF its own list column.

    ``ValueError`` where a cuDF column would get more values than the 2**31 − 1 that it can hold.
    """
    _check_count(module, int(offsets[-1]))
    if module.__name__ == "cudf":
        return _cudf_lists(offsets, values)
    lists = [values[start:stop] for start, stop in pairwise(offsets.tolist())]
    return module.Series(lists, dtype=object)


def _check_count(module: ModuleType, n_values: int) -> None:
    if module.__name__ == "cudf" and n_values > MAX_LIST_VALUES:
        raise ValueError(
            f"list column: expected at most {MAX_LIST_VALUES} values, as cuDF counts them; got "
            f"{n_values}: take fewer rows, or the long form of a search"
        )


def _cudf_lists(offsets: Int64, values: NDArray[Any]) -> Any:
    offsets_32 = offsets.astype(np.int32)
    if array_module(values) is np:
        return cudf_calls.list_column_of_host(offsets_32, values)
    return cudf_calls.list_column_of_device(offsets_32, values)
