"""Checks on the arrays that users hand in: expected and received are named in every error.

An array stays in the library that it is of, NumPy or CuPy: what is on the device is checked there,
and only the outcome is read.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]

LARGEST_VALUE = 1e15
"""In size, of vectors that are not scaled: products in any dimensions then fit in float32."""
LARGEST_FLOAT = float(np.finfo(np.float32).max)


def array_module(*arrays: Any) -> ModuleType:
    """CuPy if any of ``arrays`` is its, or else NumPy."""
    if any(type(array).__module__.partition(".")[0] == "cupy" for array in arrays):
        return sys.modules["cupy"]
    return np


def type_name(thing: Any) -> str:
    """The type of ``thing`` after the library that it is of: ``polars.DataFrame``; ``int``."""
    kind = type(thing)
    library = kind.__module__.partition(".")[0]
    return kind.__name__ if library == "builtins" else f"{library}.{kind.__name__}"


def to_host(array: Any) -> NDArray[Any]:
    """A NumPy array as it is, a CuPy array copied into one."""
    host: NDArray[Any] = array if array_module(array) is np else array.get()
    return host


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """``array`` itself, which nobody may write to from now on: for one that was just made."""
    array.setflags(write=False)
    return array


def owned(array: Any, dtype: Any = None) -> NDArray[Any]:
    """``array`` as a read-only, C-contiguous NumPy array of ``dtype``, to keep beyond the call.

    Taken as it is where neither it nor what it is a view of can be written to; else copied, so
    that a caller who goes on writing to it changes nothing here. Not for CuPy arrays, which can
    always be written to.
    """
    given = np.asarray(array)
    kept = np.ascontiguousarray(given, dtype)
    if _is_writable(kept) and (kept is given or np.may_share_memory(kept, given)):
        kept = kept.copy()
    return read_only(kept)


def check_on_host(name: str, array: Any) -> None:
    """``TypeError`` where ``array`` is CuPy's."""
    if array_module(array) is not np:
        raise TypeError(
            f"{name}: expected NumPy, as this searcher runs on the CPU; got a CuPy array: "
            "copy it with .get()"
        )


def largest_value(metric: str) -> float:
    """The largest size of a value that a search by ``metric`` takes.

    Any that is finite with cosine, which scales vectors to unit length first.
    """
    return LARGEST_FLOAT if metric == "cosine" else LARGEST_VALUE


def as_vectors(
    name: str, vectors: Any, dim: int | None = None, *, largest: float = LARGEST_FLOAT
) -> Float32:
    """``vectors`` as a C-contiguous (n, dim) float32 array, copied only where it has to be.

    A CuPy array stays on its device.

    Parameters
    ----------
    name
        What errors call it.
    vectors
        (n, dim) float32, NumPy or CuPy.
    dim
        The width that it must have; None takes any.
    largest
        The largest size of a value: see :func:`largest_value`.

    Raises
    ------
    TypeError
        Not float32 (a silent cast from float64 would change scores).
    ValueError
        Not two-dimensional, another width than ``dim``, or NaN, infinite or too large values.
    """
    xp = array_module(vectors)
    array: Float32 = xp.asarray(vectors)
    if array.dtype != np.float32:
        is_column = array.dtype == object and array.ndim == 1
        remedy = "make one array with numpy.stack" if is_column else "cast with astype('float32')"
        raise TypeError(f"{name}: expected float32, got {array.dtype}; {remedy}")
    if array.ndim != 2:
        raise ValueError(f"{name}: expected two dimensions (n, dim), got shape {array.shape}")
    if array.shape[1] == 0 or (dim is not None and array.shape[1] != dim):
        expected = "at least one column" if dim is None else f"(n, {dim})"
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
    array = xp.ascontiguousarray(array)
    check_values(name, array, largest)
    return array


def check_values(name: str, array: Float32, largest: float) -> None:
    """``ValueError`` naming the first row of (n, ...) ``array`` with a value that has no place.

    That is NaN, infinity, or larger than ``largest`` in size. One number is read from the device,
    or two where values are unusually large.
    """
    xp = array_module(array)
    # One pass over usual values: none is larger than the length of all together. NaN is no less
    # than anything, here and in what decides where that is too long.
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.ravel()
        if float(xp.vdot(values, values)) <= min(largest, LARGEST_VALUE) ** 2:
            return
    if float(xp.maximum(array.max(), -array.min())) <= largest:
        return
    rows = to_host(array).reshape(len(array), -1)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(f"{name}: expected finite values, got NaN or infinity, first in row {row}")
    sizes = np.abs(rows).max(axis=1)
    row = int((sizes > largest).argmax())
    value = float(rows[row, np.abs(rows[row]).argmax()])
    raise ValueError(
        f"{name}: expected values of at most {largest:.0e} in size where the metric is not cosine, "
        f"as their products leave float32; got {value:.6g}, first in row {row}"
    )


def as_item_ids(name: str, item_ids: Any) -> Int64:
    """``item_ids`` as a one-dimensional int64 array; a CuPy array stays on its device.

    Raises
    ------
    TypeError
        Not integers (floats lose ids above 2**53; missing values turn ids into floats).
    ValueError
        Not one-dimensional, or a value that does not fit in int64.
    """
    xp = array_module(item_ids)
    try:
        array = xp.asarray(item_ids)
        if array.dtype == np.float64 and not hasattr(item_ids, "dtype"):
            # NumPy turns Python integers into floats where int64 and uint64 values meet.
            array = np.asarray(item_ids, object)
    except OverflowError as error:
        raise ValueError(f"{name}: expected values that fit in int64") from error
    if array.size == 0 and array.ndim == 1:
        array = xp.empty(0, np.int64)
    if array.dtype.kind in "OSU":
        array = _integers_from_objects(name, array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension (n,), got shape {array.shape}")
    # As Python integers: NumPy 1 compares uint64 with int64 as floats, which lose the difference.
    largest = int(array.max()) if array.dtype == np.uint64 and array.size else 0
    if largest > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected values that fit in int64, got {largest}")
    contiguous: Int64 = xp.ascontiguousarray(array, np.int64)
    return contiguous


def check_unique(name: str, item_ids: Int64) -> None:
    """``ValueError`` naming a few of the ids that occur more than once."""
    values, counts = np.unique(item_ids, return_counts=True)
    repeated = values[counts > 1]
    if len(repeated):
        raise ValueError(
            f"{name}: expected each id once, got {len(repeated)} repeated, "
            f"such as {repeated[:3].tolist()}"
        )


def normalize(vectors: Float32) -> Float32:
    """Rows of ``vectors`` (n, dim) scaled to unit length; rows of zeros stay zeros.

    A CuPy array stays on its device.
    """
    xp = array_module(vectors)
    # In float64, as float32 squares of values beyond 1e±19 become infinite or zero.
    squares = xp.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    norms = xp.sqrt(squares).astype(np.float32)[:, None]
    normalized: Float32 = xp.asarray(vectors / xp.where(norms > 0, norms, 1), np.float32)
    return normalized


def _is_writable(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return True
        array = array.base
    return False


def _integers_from_objects(name: str, array: NDArray[Any]) -> NDArray[np.int64]:
    for value in array.ravel().tolist():  # texts as Python's, whose type tells more
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name}: expected integers, got {value!r} ({type_name(value)})")
    try:
        return array.astype(np.int64)
    except OverflowError as error:
        raise ValueError(f"{name}: expected values that fit in int64") from error
