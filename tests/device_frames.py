"""A stand-in for cuDF and pylibcudf over the arrays of :mod:`tests.device_arrays`.

It has what ``search_frame`` uses, and in :func:`make_older_cudf` what that finds in cuDF 23.12.
As cuDF's, its columns are no sequences and refuse to become NumPy or Arrow arrays by themselves;
``to_numpy`` is a counted read. Take the fixture ``cudf`` of ``conftest.py``, and :func:`peek` to
see what a column holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tests.device_arrays import hidden, make_cupy, ndarray

cupy = make_cupy()


class ListDtype:
    """The type of a column of lists."""

    def __init__(self, element_type: Any) -> None:
        self.element_type = element_type

    def __repr__(self) -> str:
        return f"ListDtype({self.element_type})"


class Column:
    """``pylibcudf.Column``, of numbers or of lists, without nulls."""

    def __init__(
        self,
        data_type: Any,
        size: int,
        data: ndarray | None,
        mask: None,
        null_count: int,
        offset: int,
        children: Iterable[Column],
    ) -> None:
        assert (mask, null_count, offset) == (None, 0, 0)
        self.data_type, self.size, self.data, self.children = data_type, size, data, list(children)
        if data_type == "list":
            offsets, _ = self.children
            assert data is None
            assert offsets.data.dtype == np.int32
            assert offsets.size == size + 1

    @classmethod
    def from_cuda_array_interface(cls, array: ndarray) -> Column:
        if not isinstance(array, ndarray):
            raise TypeError("Object does not implement __cuda_array_interface__")
        assert hidden(array).flags.c_contiguous
        return cls(array.dtype, len(array), array, None, 0, 0, [])


class Series:
    """A column of numbers: ``values`` on the device, and where it is not null."""

    def __init__(self, data: Any, valid: Any = None, dtype: str | None = None) -> None:
        if dtype is not None:
            assert dtype == "str"
            self._data = cupy.asarray(np.array(data, object))
        elif isinstance(data, ndarray):
            self._data = data
        else:
            data = list(data)
            valid = np.array([value is not None for value in data], bool)
            zero_for_null = [0 if value is None else value for value in data]
            self._data = cupy.asarray(np.array(zero_for_null, None if data else object))
        self._valid = np.ones(len(self._data), bool) if valid is None else valid

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Any:
        raise TypeError("Series object is not iterable")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a host NumPy array via __array__ is not allowed")

    def __arrow_array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a host PyArrow object is not allowed")

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    @property
    def shape(self) -> tuple[int]:
        return (len(self),)

    @property
    def null_count(self) -> int:
        return int((~self._valid).sum())

    @property
    def list(self) -> Any:
        raise AttributeError("Can only use .list accessor with a 'list' dtype")

    @property
    def values(self) -> ndarray:
        if self.null_count:
            raise ValueError("Column must have no nulls.")
        if self.dtype == object:
            raise TypeError("Data must be numeric")
        return self._data

    def to_numpy(self) -> np.ndarray:
        return self.values.get()

    def to_arrow(self) -> Any:
        return pa.array(self._data.get(), mask=~self._valid)

    def astype(self, dtype: str) -> Series:
        return Series(self._data.astype(dtype), self._valid)

    def isnull(self) -> Series:
        return Series(cupy.asarray(~self._valid))

    def fillna(self, value: Any) -> Series:
        return Series(cupy.where(cupy.asarray(self._valid), self._data, self.dtype.type(value)))

    def take(self, rows: Any) -> Series:
        return type(self)(self._data[cupy.asarray(rows)])

    def reset_index(self, *, drop: bool) -> Series:
        assert drop
        return self

    @classmethod
    def from_arrow(cls, lists: pa.ListArray) -> Series:
        arrays = (lists.offsets, lists.values)
        return ListSeries(*(cupy.asarray(array.to_numpy(zero_copy_only=False)) for array in arrays))

    @classmethod
    def from_pylibcudf(cls, column: Column) -> Series:
        assert column.data_type == "list"
        return ListSeries(*(child.data for child in column.children))


class Index(Series):
    """The labels of a frame's rows."""

    def __init__(self, data: Any, name: str | None = None) -> None:
        super().__init__(data)
        self.name = name

    reset_index = property()  # as cuDF's has none


class ListSeries(Series):
    """A column of lists."""

    def __init__(self, offsets: ndarray, leaves: Any, valid: Any = None) -> None:
        self._offsets = offsets
        self._leaves = leaves if isinstance(leaves, Series) else Series(leaves)
        self._valid = np.ones(len(offsets) - 1, bool) if valid is None else valid

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any) -> ListSeries:
        lengths = [0 if row is None else len(row) for row in rows]
        offsets = np.cumsum([0, *lengths], dtype=np.int32)
        values = [value for row in rows if row is not None for value in row]
        leaf_valid = np.array([value is not None for value in values], bool)
        data = np.array([0 if value is None else value for value in values], dtype)
        valid = np.array([row is not None for row in rows], bool)
        return cls(cupy.asarray(offsets), Series(cupy.asarray(data), leaf_valid), valid)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def dtype(self) -> Any:
        return ListDtype(self._leaves.dtype)

    @property
    def list(self) -> Any:
        lengths = Series(self._offsets[1:] - self._offsets[:-1], self._valid)
        return SimpleNamespace(len=lambda: lengths, leaves=self._leaves)

    def to_arrow(self) -> Any:
        offsets = self._offsets.get().astype(object)
        offsets[:-1][~self._valid] = None  # a null list begins nowhere
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), self._leaves.to_arrow())

    @property
    def values(self) -> ndarray:
        raise NotImplementedError("Lists are not yet supported via `__cuda_array_interface__`")


class DataFrame:
    """Named columns of one length."""

    def __init__(self, columns: dict[str, Any], index: Index | None = None) -> None:
        self._columns = {
            name: column if isinstance(column, Series) else Series(cupy.asarray(column))
            for name, column in columns.items()
        }
        lengths = set(map(len, self._columns.values()))
        assert len(lengths) == 1
        self.index = Index(cupy.arange(lengths.pop())) if index is None else index

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, list):
            return DataFrame({each: self._columns[each] for each in name})
        return self._columns[name]

    def fillna(self, value: Any) -> DataFrame:
        return DataFrame({name: column.fillna(value) for name, column in self._columns.items()})

    def astype(self, dtype: str) -> DataFrame:
        return DataFrame({name: column.astype(dtype) for name, column in self._columns.items()})

    def to_pandas(self) -> pd.DataFrame:
        columns = {name: column.to_arrow().to_pandas() for name, column in self._columns.items()}
        return pd.DataFrame(columns)

    def to_cupy(self) -> ndarray:
        # By columns in memory, as cuDF's.
        return cupy.stack([column.values for column in self._columns.values()]).T

    def to_numpy(self) -> np.ndarray:
        return self.to_cupy().get()


for _class in (DataFrame, Index, ListSeries, Series):
    _class.__module__ = "cudf.core"


def peek(column: Series) -> Any:
    """What a column holds, a list or (of lists) a list of NumPy arrays, as no program could."""
    if isinstance(column, ListSeries):
        return np.split(hidden(column._leaves._data), hidden(column._offsets)[1:-1])[: len(column)]
    return hidden(column._data).tolist()


class OlderSeries:
    """``cudf.Series`` of cuDF 23.12: it takes a column, and knows nothing of pylibcudf's."""

    from_arrow = Series.from_arrow

    def __new__(cls, data: Column) -> Any:
        return Series.from_pylibcudf(data)


def as_column(arbitrary: ndarray, nan_as_null: bool | None = None) -> Column:
    """cuDF 23.12's; floats become nulls where they are NaN, unless that is said to be unwanted."""
    assert arbitrary.dtype.kind != "f" or nan_as_null is False
    return Column.from_cuda_array_interface(arbitrary)


def build_list_column(indices: Column, elements: Column, size: int) -> Column:
    """cuDF 23.12's."""
    return Column("list", size, None, None, 0, 0, [indices, elements])


def make_older_cudf() -> dict[str, ModuleType]:
    """The modules of cuDF 23.12, by name."""
    cudf, core, column = map(ModuleType, ("cudf", "cudf.core", "cudf.core.column"))
    cudf.DataFrame, cudf.Series, cudf.Index = DataFrame, OlderSeries, Index
    cudf.core, core.column = core, column
    column.as_column, column.build_list_column = as_column, build_list_column
    return {module.__name__: module for module in (cudf, core, column)}


def make_cudf() -> tuple[ModuleType, ModuleType]:
    """The modules ``cudf`` and ``pylibcudf``."""
    cudf, pylibcudf = ModuleType("cudf"), ModuleType("pylibcudf")
    cudf.DataFrame, cudf.Series, cudf.Index = DataFrame, Series, Index
    pylibcudf.Column = Column
    pylibcudf.TypeId = SimpleNamespace(LIST="list")
    pylibcudf.DataType = lambda type_id: type_id
    return cudf, pylibcudf
