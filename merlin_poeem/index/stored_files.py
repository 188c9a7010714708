"""The files of a saved index: their names, the header that names them, and checked reading.

Nothing is pickled, and arrays are memory-mapped. Every file's size and CRC-32 stand in the header,
and the header's own beside it.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = "merlin_poeem index"
FORMAT_VERSION = 3
"""The newest that is read."""
HEADER_FILE = "header.json"
ITEM_TABLE = "item_table"
FLAT = "flat"
"""The ``kind`` in the header of a flat index; others have none."""
ARRAYS = (
    "coarse_centroids",
    "codebook",
    "rotation",
    "query_rotation",
    "scale_range",
    "list_offsets",
    "list_lengths",
    "item_ids",
    "codes",
    "scales",
    "vectors",
    "vector_scales",
    "vector_origin",
)

_ARRAY_NAME = re.compile(rf"({'|'.join(ARRAYS)})-[0-9a-f]{{8}}\.npy")
TABLE_NAME = re.compile(rf"{ITEM_TABLE}-[0-9a-f]{{8}}\.parquet")
_TEMPORARY_NAME = re.compile(r"header-[0-9a-f]{8}\.tmp")
# Its functions have no types in some NumPy releases.
_npy: Any = np.lib.format
_NPY_PREAMBLE = 10
_NPY_LONGEST_HEADER = _NPY_PREAMBLE + 0xFFFF


class IndexFormatError(ValueError):
    """A file or directory that can't be read as an index.

    The message names the path and tells the cases apart: "not an index", "newer version",
    "truncated or missing file", "checksum mismatch", "shape/dtype mismatch", "malformed".
    """


def version_for(arrays: Iterable[str]) -> int:
    """The oldest format version that knows all of ``arrays``: older releases read what they can."""
    return 3 if "query_rotation" in arrays else 2


def read_header(path: Path) -> dict[str, Any]:
    """The verified "header" part of ``header.json``."""
    file = path / HEADER_FILE
    if not file.is_file():
        raise IndexFormatError(f"{path}: not an index: it holds no {HEADER_FILE}")
    try:
        content = json.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path}: not an index: {HEADER_FILE} is not JSON") from error
    if not isinstance(content, dict) or content.get("magic") != MAGIC:
        raise IndexFormatError(f"{path}: not an index: {HEADER_FILE} has no magic {MAGIC!r}")
    version = get_checked(path, content, "format_version", int)
    if version > FORMAT_VERSION:
        raise IndexFormatError(
            f"{path}: newer version: written in format {version}, this merlin_poeem reads up to "
            f"{FORMAT_VERSION}; upgrade it"
        )
    if version < 1:
        raise IndexFormatError(f"{path}: malformed header: format version {version}")
    header: dict[str, Any] = get_checked(path, content, "header", dict)
    try:
        crc32 = zlib.crc32(canonical(header))
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path}: malformed header: {error}") from error
    if crc32 != content.get("crc32"):
        raise IndexFormatError(f"{path}: checksum mismatch: {HEADER_FILE} is damaged")
    return header


def get_checked(path: Path, values: Any, name: str, expected: type) -> Any:
    """``values[name]``, checked to be there and of the expected JSON type."""
    value = values.get(name) if isinstance(values, dict) else None
    if type(value) is not expected:
        raise IndexFormatError(
            f"{path}: malformed header: expected {name} as {expected.__name__}, got {value!r:.80}"
        )
    return value


def canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class StoredFile:
    """A mapped file of an index and what the header says of it."""

    path: Path
    mapped: mmap.mmap
    n_bytes: int
    crc32: int

    @classmethod
    def map(cls, directory: Path, entry: Any, pattern: re.Pattern[str]) -> StoredFile:
        """Map the file without reading it, its size checked."""
        # The pattern keeps a header from naming files outside of the directory.
        name = get_checked(directory, entry, "file", str)
        if not pattern.fullmatch(name):
            raise IndexFormatError(f"{directory}: malformed header: file name {name!r}")
        path = directory / name
        if not path.is_file():
            raise IndexFormatError(f"{path}: truncated or missing file: there is none")
        n_bytes = get_checked(directory, entry, "bytes", int)
        with path.open("rb") as file:
            _check_size(path, os.fstat(file.fileno()).st_size, n_bytes)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(path, mapped, n_bytes, get_checked(directory, entry, "crc32", int))

    def verified(self) -> mmap.mmap:
        """The content, size and checksum tested."""
        _check_size(self.path, self.mapped.size(), self.n_bytes)
        if zlib.crc32(self.mapped) != self.crc32:
            raise IndexFormatError(f"{self.path}: checksum mismatch: the file is damaged")
        return self.mapped


@dataclass(frozen=True)
class StoredArray:
    """A mapped .npy file, and the dtype and shape that it has to have."""

    file: StoredFile
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def map(
        cls, directory: Path, entries: Any, name: str, dtype: str, shape: tuple[int, ...]
    ) -> StoredArray:
        entry = get_checked(directory, entries, name, dict)
        got = (entry.get("dtype"), entry.get("shape"))
        if got != (dtype, list(shape)):
            raise IndexFormatError(
                f"{directory}: shape/dtype mismatch: expected {name} of {dtype} {list(shape)}, "
                f"got {got[0]} {got[1]}"
            )
        return cls(StoredFile.map(directory, entry, _ARRAY_NAME), dtype, shape)

    def read(self) -> NDArray[Any]:
        """The verified array, read-only, in the mapped file."""
        mapped = self.file.verified()
        if _npy_header(self.file.path, mapped[:_NPY_LONGEST_HEADER]) != (self.dtype, self.shape):
            raise IndexFormatError(
                f"{self.file.path}: shape/dtype mismatch: expected {self.dtype} {self.shape}"
            )
        data_bytes = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        offset = _NPY_PREAMBLE + int.from_bytes(mapped[8:_NPY_PREAMBLE], "little")
        _check_size(self.file.path, self.file.n_bytes, offset + data_bytes)
        return np.ndarray(self.shape, self.dtype, mapped, offset)

    def read_into_memory(self) -> NDArray[Any]:
        """A copy that holds on to no file."""
        return self.read().copy()


def is_file_of_index(name: str) -> bool:
    patterns = (_ARRAY_NAME, TABLE_NAME, _TEMPORARY_NAME)
    return any(pattern.fullmatch(name) for pattern in patterns)


def _npy_header(path: Path, data: bytes) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) of a C-ordered .npy file of version 1.0, from its first bytes."""
    file = io.BytesIO(data)
    try:
        if _npy.read_magic(file) != (1, 0):
            raise ValueError("its .npy version is not 1.0")
        shape, fortran_order, dtype = _npy.read_array_header_1_0(file)
        if fortran_order:
            raise ValueError("it is in Fortran order")
    # NumPy parses the header as Python source: what that raises on nonsense has no list.
    except Exception as error:
        raise IndexFormatError(f"{path}: malformed .npy header: {error}") from error
    return dtype.str, tuple(shape)


def _check_size(path: Path, got: int, expected: int) -> None:
    if got != expected:
        raise IndexFormatError(
            f"{path}: truncated or missing file: expected {expected} bytes, got {got}"
        )
