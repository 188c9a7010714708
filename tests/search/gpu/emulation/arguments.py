"""What a kernel's parameters take: NumPy arrays and scalars of their own types, and no others."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.search.gpu.emulation.errors import EmulationError

KINDS = {"f": "f", "c": "c", "i": "i", "u": "i", "b": "b", "V": "c"}
"""Of a NumPy dtype's kind, the header's; signed and unsigned integers are one kind."""


class _RawParameter(ctypes.Structure):
    """As ``Parameter`` of ``cuda/entry.h``."""

    _fields_ = (
        ("type_text", ctypes.c_char_p),
        ("size", ctypes.c_uint64),
        ("pointee_size", ctypes.c_uint64),
        ("pointee_alignment", ctypes.c_uint64),
        ("kind", ctypes.c_char),
        ("pointee_kind", ctypes.c_char),
        ("pointee_is_const", ctypes.c_bool),
    )


@dataclass(frozen=True)
class Parameter:
    """What a kernel takes at one place. Kinds are the header's."""

    label: str
    size: int
    kind: str
    pointee_size: int
    pointee_alignment: int
    pointee_kind: str
    pointee_is_const: bool

    def value(self, arg: Any) -> Any:
        """The argument's bytes, in ctypes."""
        if self.kind == "p":
            return ctypes.c_void_p(self._address(arg))
        return self._scalar(arg)

    def _address(self, arg: Any) -> int:
        if arg is None:
            return 0
        if not isinstance(arg, np.ndarray):
            raise EmulationError(f"{self.label} takes an array or None, not {_described(arg)}")
        if not arg.flags.c_contiguous:
            raise EmulationError(f"{self.label} takes a C-contiguous array")
        if not (self.pointee_is_const or arg.flags.writeable):
            raise EmulationError(f"{self.label} is written to, and the array is read-only")
        # A class or void is a view of bytes: codes as uint4, say.
        if self.pointee_kind not in "cvp" and (
            self.pointee_kind != KINDS.get(arg.dtype.kind) or self.pointee_size != arg.itemsize
        ):
            is_flag = self.pointee_size == arg.itemsize == 1
            if not is_flag:
                raise EmulationError(f"{self.label} does not take {_described(arg)}")
        address = int(arg.ctypes.data)
        if address % self.pointee_alignment:
            raise EmulationError(
                f"{self.label} takes an array aligned to {self.pointee_alignment} bytes"
            )
        return address

    def _scalar(self, arg: Any) -> Any:
        if not isinstance(arg, np.generic):
            raise EmulationError(f"{self.label} takes a NumPy scalar, not {_described(arg)}")
        if self.size != arg.itemsize or self.kind != KINDS.get(arg.dtype.kind):
            raise EmulationError(f"{self.label} does not take {_described(arg)}")
        return (ctypes.c_uint8 * self.size).from_buffer_copy(arg.tobytes())


def parameters_of(library: ctypes.CDLL, names: list[str]) -> list[Parameter]:
    """What the library's kernel takes; ``names`` are left out where they are not of all."""
    library.emulation_parameters.restype = ctypes.POINTER(_RawParameter)
    n = ctypes.c_int()
    raw_parameters = library.emulation_parameters(ctypes.byref(n))
    if len(names) != n.value:
        names = [f"number {i}" for i in range(n.value)]
    parameters = []
    for raw, name in zip(raw_parameters[: n.value], names, strict=True):
        text = re.search(r"with T = (.*)\]$", raw.type_text.decode())
        parameters.append(
            Parameter(
                label=f"parameter {name} ({text[1] if text else '?'})",
                size=raw.size,
                kind=raw.kind.decode(),
                pointee_size=raw.pointee_size,
                pointee_alignment=raw.pointee_alignment,
                pointee_kind=raw.pointee_kind.decode(),
                pointee_is_const=raw.pointee_is_const,
            )
        )
    return parameters


def _described(arg: Any) -> str:
    if isinstance(arg, np.ndarray):
        return f"an array of {arg.dtype}"
    if isinstance(arg, np.generic):
        return f"np.{arg.dtype}({arg})"
    return f"{type(arg).__name__} {arg!r}"
