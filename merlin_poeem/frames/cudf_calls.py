"""What is asked of cuDF and pylibcudf alone, in one place.

Known are cuDF 26.10, and 23.12, which Merlin's own container has. Where they differ, the way is
chosen by what is there, not by a version. What pandas and cuDF share, such as ``take``, is called
where it is needed. ``tests/test_gpu_signatures.py`` holds each call of both kinds against the
signatures of either release.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64


def is_cudf(thing: Any) -> bool:
    """Whether a frame or column is cuDF's."""
    return type(thing).__module__.partition(".")[0] == "cudf"


def to_arrow(column: Any) -> Any:
    """A column of n rows as a PyArrow array, copied to the host. Categories are a dictionary."""
    return column.to_arrow()


def to_pandas(frame: Any) -> Any:
    """A frame as pandas', copied to the host; lists become arrays, integers with nulls floats."""
    return frame.to_pandas()


def matrix_of(frame: Any, *, on_device: bool) -> NDArray[np.float32]:
    """The columns of numbers of ``frame`` as (n, n_columns) float32, a null NaN.

    By columns in memory. CuPy's where ``on_device``, or else NumPy's.
    """
    numbers = frame.astype("float32")
    filled = numbers.fillna(np.nan)
    matrix: NDArray[np.float32] = filled.to_cupy() if on_device else filled.to_numpy()
    return matrix


def null_count(column: Any) -> int:
    """How many rows of ``column`` are null."""
    count: int = column.null_count
    return count


def where_null(column: Any) -> NDArray[np.bool_]:
    """Where ``column`` is null, (n,) bool, CuPy's."""
    is_null = column.isnull()
    flags: NDArray[np.bool_] = is_null.values
    return flags


def has_lists(column: Any) -> bool:
    """Whether the rows of ``column`` are lists, of whatever."""
    return hasattr(column, "list")


def has_nested_lists(column: Any) -> bool:
    """Whether the rows of a list column are lists of lists."""
    return hasattr(getattr(column.dtype, "element_type", None), "element_type")


def list_lengths(column: Any) -> Int64:
    """The length of each list of a list column, (n,) int64, −1 for a null; CuPy's."""
    lists = column.list
    counts = lists.len()
    counts = counts.fillna(-1)
    return counts.values.astype(np.int64)  # type: ignore[no-any-return]


def list_values(column: Any) -> Any:
    """The values of all lists of a list column, one after the other, as a column.

    Of a part of a longer column, the values of that part. Not of nested lists, whose innermost
    values these would be.
    """
    lists = column.list
    return lists.leaves


def nulls_to_nan(column: Any) -> Any:
    """A column of floats with NaN in the place of nulls."""
    return column.fillna(np.nan)


def values_of(column: Any) -> NDArray[Any]:
    """A column of numbers as (n,) of its own dtype, CuPy's; it shares the column's memory.

    Raises cuDF's ``ValueError`` where there are nulls.
    """
    values: NDArray[Any] = column.values
    return values


def list_column_of_host(offsets: NDArray[np.int32], values: NDArray[Any]) -> Any:
    """NumPy's (n + 1,) int32 ``offsets`` and (n_values,) ``values`` as a list column of n rows."""
    import cudf
    import pyarrow as pa

    return cudf.Series.from_arrow(pa.ListArray.from_arrays(offsets, pa.array(values)))


def list_column_of_device(offsets: NDArray[np.int32], values: NDArray[Any]) -> Any:
    """CuPy's (n + 1,) int32 ``offsets`` and (n_values,) ``values`` as a list column of n rows.

    The column's memory is that of the arrays. ``ImportError`` where the installed cuDF has none of
    the ways to make one that are known here.
    """
    import cudf

    # cuDF's own interface makes no list column of device arrays (NVIDIA/cudf issue 11130). What it
    # stands on does: as in Arrow, the column has no data but two children, offsets and values.
    if hasattr(cudf.Series, "from_pylibcudf"):
        import pylibcudf as plc

        if hasattr(plc.Column, "from_cuda_array_interface"):
            offsets_column = plc.Column.from_cuda_array_interface(offsets)
            children = [offsets_column, plc.Column.from_cuda_array_interface(values)]
            data_type = plc.DataType(plc.TypeId.LIST)
            lists = plc.Column(data_type, len(offsets) - 1, None, None, 0, 0, children)
            return cudf.Series.from_pylibcudf(lists)
    return _built_list_column(offsets, values)


def _built_list_column(offsets: NDArray[np.int32], values: NDArray[Any]) -> Any:
    """:func:`list_column_of_device` of cuDF 23.12, where columns are Python objects."""
    import cudf

    try:
        from cudf.core.column import as_column, build_list_column
    except ImportError as error:
        raise ImportError(
            f"cuDF {getattr(cudf, '__version__', '')}: expected Series.from_pylibcudf or, as in "
            "23.12, build_list_column, to make a list column of device arrays; got neither: "
            "install cuDF 26.10, or take form='long'"
        ) from error
    # Or else it looks for NaN, and makes nulls of them.
    elements = as_column(values, nan_as_null=False)
    lists = build_list_column(indices=as_column(offsets), elements=elements, size=len(offsets) - 1)
    return cudf.Series(lists)
