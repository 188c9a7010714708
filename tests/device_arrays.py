"""A stand-in for CuPy, to show where arrays go: nothing reaches NumPy but what asks for it.

As CuPy's, its arrays raise ``TypeError`` where NumPy takes them for its own, and meet NumPy arrays
only in ``asarray``. What is read to the host, by ``get``, ``tolist`` or as a number, is counted.

Take the fixture ``cupy`` of ``conftest.py``, which puts it into ``sys.modules``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

# The functions that the package may call: all in CuPy 14, of the same arguments as NumPy's.
CREATING = ("arange", "array", "asarray", "empty", "full", "ones", "zeros")
COMPUTING = (
    "argsort",
    "ascontiguousarray",
    "concatenate",
    "cumsum",
    "diff",
    "einsum",
    "flatnonzero",
    "isfinite",
    "lexsort",
    "matmul",
    "maximum",
    "minimum",
    "nonzero",
    "searchsorted",
    "sqrt",
    "stack",
    "take_along_axis",
    "unique",
    "vdot",
    "where",
)
METHODS = ("all", "any", "argmax", "astype", "copy", "cumsum", "max", "mean", "min", "ravel")
METHODS += ("reshape", "sum", "take", "view")
OPERATORS = ("add", "and", "eq", "floordiv", "ge", "gt", "le", "lt", "matmul", "mod", "mul", "ne")
OPERATORS += ("or", "pow", "sub", "truediv", "xor")


class ndarray:
    """An array "on the device": a NumPy array that only this module can see."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, hidden: np.ndarray) -> None:
        self._hidden = hidden

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} of an array on the device")

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"device {self._hidden!r}"

    def __len__(self) -> int:
        return len(self._hidden)

    def __getitem__(self, key: Any) -> ndarray:
        return _to_device(self._hidden[_reveal(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._hidden[_reveal(key)] = _reveal(value)

    def __neg__(self) -> ndarray:
        return _to_device(-self._hidden)

    def __invert__(self) -> ndarray:
        return _to_device(~self._hidden)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        return operator.index(self.get()[()])

    def __float__(self) -> float:
        return float(self.get())

    def get(self) -> np.ndarray:
        """A copy in a NumPy array, counted."""
        _reads.append(self._hidden.size)
        return self._hidden.copy()

    def tolist(self) -> Any:
        return self.get().tolist()

    def item(self) -> Any:
        return self.get().item()


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self._hidden, name))


def _method(name: str) -> Callable[..., Any]:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        return _to_device(getattr(self._hidden, name)(*_reveal(args), **_reveal(kwargs)))

    return method


for _name in ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
    setattr(ndarray, _name, _attribute(_name))
ndarray.T = property(lambda self: _to_device(self._hidden.T))
for _name in METHODS:
    setattr(ndarray, _name, _method(_name))
for _name in OPERATORS:
    for _full in (f"__{_name}__", f"__r{_name}__"):
        if hasattr(np.ndarray, _full):
            setattr(ndarray, _full, _method(_full))
ndarray.__module__ = "cupy"


class TorchTensor:
    """Another library's array "on the device", which CuPy takes by its interface."""

    def __init__(self, hidden: np.ndarray) -> None:
        self._hidden = hidden

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @property
    def __cuda_array_interface__(self) -> Any:
        return {"shape": self._hidden.shape}


class TensorFlowTensor(TorchTensor):
    """One that CuPy takes through DLPack alone."""

    __cuda_array_interface__ = property()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # CUDA, the first


_reads: list[int] = []


@contextmanager
def counting_reads() -> Iterator[list[int]]:
    """The size of every read to the host while it is open."""
    start, sizes = len(_reads), []
    yield sizes
    sizes += _reads[start:]


def hidden(array: Any) -> Any:
    """The NumPy array behind one of the device, which no program could see; others as they are."""
    return array._hidden if isinstance(array, ndarray) else array


def on_device(array: np.ndarray) -> ndarray:
    """``array`` as one on the device, over the same memory."""
    return ndarray(array)


def share_memory(first: ndarray, second: ndarray) -> bool:
    """Whether one is a view of the other, or both of a third."""
    return np.shares_memory(first._hidden, second._hidden)


def make_cupy() -> ModuleType:
    """The module ``cupy``."""
    cupy = ModuleType("cupy")
    cupy.ndarray = ndarray
    for name in CREATING:
        setattr(cupy, name, _function(name, _reveal_or_host))
    for name in COMPUTING:
        setattr(cupy, name, _function(name, _reveal))
    cupy.asnumpy = lambda array: array.get()
    # As on a machine without a GPU: "auto" passes over it.
    cupy.cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDeviceCount=lambda: 0, CUDARuntimeError=RuntimeError)
    )
    cupy.from_dlpack = lambda tensor: ndarray(tensor._hidden)
    return cupy


def _function(name: str, reveal: Callable[[Any], Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        if name == "asarray" and isinstance(args[0], ndarray) and len(args) == 1 and not kwargs:
            return args[0]
        return _to_device(getattr(np, name)(*reveal(args), **reveal(kwargs)))

    return function


def _to_device(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_to_device, value))
    if value is NotImplemented:
        return value
    return ndarray(np.asarray(value))


def _reveal(value: Any) -> Any:
    """``value`` with the NumPy array behind each device array; NumPy arrays have no place in it."""
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return _reveal_or_host(value, _reveal)


def _reveal_or_host(value: Any, reveal: Callable[[Any], Any] | None = None) -> Any:
    reveal = reveal or _reveal_or_host
    if isinstance(value, ndarray) or hasattr(value, "__cuda_array_interface__"):
        return value._hidden
    if isinstance(value, tuple | list):
        return type(value)(map(reveal, value))
    if isinstance(value, dict):
        return {key: reveal(item) for key, item in value.items()}
    return value
