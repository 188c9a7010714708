"""Save and load an Index: a directory of ``header.json`` and ``.npy`` arrays (format version 1).

Every save writes its arrays under fresh names, ``codes-3f2a9c1b.npy``, and then replaces
``header.json``, which names them: that rename is the moment at which the new index exists. A crash
before it leaves the old index whole, one after it the new one; what a crash leaves over, the next
save deletes. The header carries a CRC-32 of itself and of every file.

Nothing is pickled, and arrays are memory-mapped: item ids, codes and the item table are read, and
their checksums tested, when they are first used.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import math
import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64
from merlin_poeem.index import Index, check_agreement, check_item_table
from merlin_poeem.item_codes import Quantization
from merlin_poeem.params import IVFPQParams

if TYPE_CHECKING:
    import pandas as pd

MAGIC = "merlin_poeem index"
FORMAT_VERSION = 1
HEADER_FILE = "header.json"
ITEM_TABLE = "item_table"
ARRAYS = ("coarse_centroids", "codebook", "rotation", "list_offsets", "item_ids", "codes")

_ARRAY_NAME = re.compile(rf"({'|'.join(ARRAYS)})-[0-9a-f]{{8}}\.npy")
_TABLE_NAME = re.compile(rf"{ITEM_TABLE}-[0-9a-f]{{8}}\.parquet")
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


def save_index(index: Index, path: str | os.PathLike[str]) -> None:
    """Save ``index`` as the directory ``path``, atomically; an index saved there is replaced.

    A process that has the replaced index open goes on reading the old arrays.

    Raises
    ------
    ValueError
        ``path`` is a file, or a directory that holds anything but an index; ``index.info`` is not
        JSON; a column of the item table can't be stored as Parquet.
    BlockingIOError
        Another process is saving to ``path``.
    """
    path = Path(path)
    _check_target(path)
    info = _as_json(index.info)
    arrays = _arrays_of(index)
    table = None if index.item_table is None else _to_parquet(index.item_table)
    created = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    if created:
        fsync_directory(path.parent)
    token = os.urandom(4).hex()
    with _locked(path):
        _check_target(path)
        _delete_strays(path)
        try:
            files = {name: _write_array(path, name, token, a) for name, a in arrays.items()}
            header = {
                "params": index.params.to_dict(),
                "dim": index.dim,
                "n_items": index.n_items,
                "encodes_residual": index.quantization.encodes_residual,
                "arrays": files,
                ITEM_TABLE: None if table is None else _write_table(path, token, table),
                "info": info,
                "created": _created(),
            }
            fsync_directory(path)
            _commit_header(path, token, header)
        finally:
            # Whichever header is in place now, old or new, decides what is kept.
            _delete_strays(path)


def load_index(path: str | os.PathLike[str]) -> Index:
    """Open the index saved in the directory ``path``.

    Reads the header, centroids, codebook, rotation and list offsets. Item ids, codes and item
    table are mapped, and read on first use; a damaged one is an ``IndexFormatError`` then.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``path``.
    IndexFormatError
        What is there is no index, of a newer version, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no index there")
    header = _read_header(path)
    while True:
        try:
            return _open(path, header)
        except IndexFormatError:
            # A save that ended between the two reads has deleted the files of the header we hold.
            newest = _read_header(path)
            if newest == header:
                raise
            header = newest


def fsync_directory(path: Path) -> None:
    """Make the names in the directory ``path`` durable, where its file system knows how."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


# Saving.


def _check_target(path: Path) -> None:
    """``ValueError`` unless ``path`` is free, empty, or holds an index that may be replaced."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{path}: expected a directory or a free name to save to, got a file")
    if (path / HEADER_FILE).exists():
        try:
            _read_header(path)
        except IndexFormatError as error:
            raise ValueError(
                f"{path}: expected an index to replace, got something else ({error}); "
                "delete it or save elsewhere"
            ) from error
        return
    # What an interrupted first save left over may be replaced.
    foreign = [name for name in sorted(os.listdir(path)) if not _is_ours(name)]
    if foreign:
        raise ValueError(
            f"{path}: expected an empty directory or an index to replace, got {len(foreign)} "
            f"other files, such as {foreign[0]}"
        )


def _arrays_of(index: Index) -> dict[str, NDArray[Any]]:
    quantization = index.quantization
    arrays = {
        "coarse_centroids": quantization.coarse_centroids,
        "codebook": quantization.codebook,
        "rotation": quantization.rotation,
        "list_offsets": index.list_offsets,
        "item_ids": index.item_ids,
        "codes": index.packed_codes,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _created() -> dict[str, str]:
    from merlin_poeem import __version__  # here, because the package imports this module

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"library": "merlin-poeem", "version": __version__, "time": now}


def _write_array(path: Path, name: str, token: str, array: NDArray[Any]) -> dict[str, Any]:
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    with _durable(path / f"{name}-{token}.npy") as file:
        _npy.write_array(file, array, version=(1, 0), allow_pickle=False)
    return {**file.entry, "dtype": array.dtype.str, "shape": list(array.shape)}


def _write_table(path: Path, token: str, parquet: bytes) -> dict[str, Any]:
    with _durable(path / f"{ITEM_TABLE}-{token}.parquet") as file:
        file.write(parquet)
    return file.entry


def _to_parquet(table: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    try:
        pyarrow.parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), sink)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise ValueError(f"item_table: expected columns that Parquet can hold; {error}") from error
    return bytes(sink.getvalue())


def _commit_header(path: Path, token: str, header: dict[str, Any]) -> None:
    content = {
        "magic": MAGIC,
        "format_version": FORMAT_VERSION,
        "crc32": zlib.crc32(_canonical(header)),
        "header": header,
    }
    temporary = path / f"header-{token}.tmp"
    with _durable(temporary) as file:
        file.write(json.dumps(content, indent=1).encode())
    os.replace(temporary, path / HEADER_FILE)
    fsync_directory(path)


class _ChecksummedFile:
    """A new file being written, its size and CRC-32 kept up to date."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._file = file
        self.entry: dict[str, Any] = {"file": name, "bytes": 0, "crc32": 0}

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.entry["bytes"] += len(data)
        self.entry["crc32"] = zlib.crc32(data, self.entry["crc32"])
        return len(data)


@contextmanager
def _durable(path: Path) -> Iterator[_ChecksummedFile]:
    """A file that did not exist before and is on the disk after."""
    with path.open("xb") as file:
        yield _ChecksummedFile(path.name, file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the directory against other saves: each would delete the files of the other."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{path}: another process is saving there") from error
        except OSError:
            pass  # a file system without locks: then one save at a time is up to the caller
        yield
    finally:
        os.close(descriptor)


def _is_ours(name: str) -> bool:
    patterns = (_ARRAY_NAME, _TABLE_NAME, _TEMPORARY_NAME)
    return any(pattern.fullmatch(name) for pattern in patterns)


def _delete_strays(path: Path) -> None:
    """Delete the files of other generations than the one that the header names."""
    named = _canonical(_read_header(path)) if (path / HEADER_FILE).exists() else b""
    for name in os.listdir(path):
        if _is_ours(name) and name.encode() not in named:
            with suppress(OSError):
                os.unlink(path / name)


# Loading.


@dataclass(frozen=True)
class _StoredFile:
    """A mapped file of an index and what the header says of it."""

    path: Path
    mapped: mmap.mmap
    n_bytes: int
    crc32: int

    @classmethod
    def map(cls, directory: Path, entry: Any, pattern: re.Pattern[str]) -> _StoredFile:
        """Map the file without reading it, its size checked."""
        # The pattern keeps a header from naming files outside of the directory.
        name = _get(directory, entry, "file", str)
        if not pattern.fullmatch(name):
            raise IndexFormatError(f"{directory}: malformed header: file name {name!r}")
        path = directory / name
        if not path.is_file():
            raise IndexFormatError(f"{path}: truncated or missing file: there is none")
        n_bytes = _get(directory, entry, "bytes", int)
        with path.open("rb") as file:
            _check_size(path, os.fstat(file.fileno()).st_size, n_bytes)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(path, mapped, n_bytes, _get(directory, entry, "crc32", int))

    def verified(self) -> mmap.mmap:
        """The content, size and checksum tested."""
        _check_size(self.path, self.mapped.size(), self.n_bytes)
        if zlib.crc32(self.mapped) != self.crc32:
            raise IndexFormatError(f"{self.path}: checksum mismatch: the file is damaged")
        return self.mapped


@dataclass(frozen=True)
class _StoredArray:
    """A mapped .npy file, and the dtype and shape that it has to have."""

    file: _StoredFile
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def map(
        cls, directory: Path, entries: Any, name: str, dtype: str, shape: tuple[int, ...]
    ) -> _StoredArray:
        entry = _get(directory, entries, name, dict)
        got = (entry.get("dtype"), entry.get("shape"))
        if got != (dtype, list(shape)):
            raise IndexFormatError(
                f"{directory}: shape/dtype mismatch: expected {name} of {dtype} {list(shape)}, "
                f"got {got[0]} {got[1]}"
            )
        return cls(_StoredFile.map(directory, entry, _ARRAY_NAME), dtype, shape)

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


def _read_header(path: Path) -> dict[str, Any]:
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
    version = _get(path, content, "format_version", int)
    if version > FORMAT_VERSION:
        raise IndexFormatError(
            f"{path}: newer version: written in format {version}, this merlin_poeem reads up to "
            f"{FORMAT_VERSION}; upgrade it"
        )
    if version < 1:
        raise IndexFormatError(f"{path}: malformed header: format version {version}")
    header: dict[str, Any] = _get(path, content, "header", dict)
    try:
        crc32 = zlib.crc32(_canonical(header))
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path}: malformed header: {error}") from error
    if crc32 != content.get("crc32"):
        raise IndexFormatError(f"{path}: checksum mismatch: {HEADER_FILE} is damaged")
    return header


def _open(path: Path, header: dict[str, Any]) -> Index:
    try:
        params = IVFPQParams.from_dict(_get(path, header, "params", dict))
    except (TypeError, ValueError) as error:
        raise IndexFormatError(f"{path}: malformed header: {error}") from error
    dim, n_items = _get(path, header, "dim", int), _get(path, header, "n_items", int)
    entries = _get(path, header, "arrays", dict)

    def array(name: str, dtype: str, *shape: int) -> _StoredArray:
        return _StoredArray.map(path, entries, name, dtype, shape)

    try:
        pq_len = params.pq_len(dim)
        rotation = "rotation" in entries
        quantization = Quantization(
            array("coarse_centroids", "<f4", params.n_lists, dim).read_into_memory(),
            array("codebook", "<f4", params.pq_dim, params.pq_book_size, pq_len).read_into_memory(),
            array("rotation", "<f4", dim, dim).read_into_memory() if rotation else None,
            _get(path, header, "encodes_residual", bool),
        )
        check_agreement(params, quantization)
    except IndexFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise IndexFormatError(f"{path}: malformed: {error}") from error
    list_offsets = array("list_offsets", "<i8", params.n_lists + 1).read_into_memory()
    _check_offsets(path, list_offsets, n_items)
    item_ids = array("item_ids", "<i8", n_items)
    codes = array("codes", *_packed_layout(quantization, n_items))
    return Index(
        params,
        quantization,
        list_offsets,
        lambda: _read_item_ids(item_ids, list_offsets),
        lambda: _read_codes(codes, params),
        _table_loader(path, header),
        _get(path, header, "info", dict),
    )


def _packed_layout(quantization: Quantization, n_items: int) -> tuple[Any, ...]:
    """dtype and shape of the codes as :func:`~merlin_poeem.item_codes.pack_codes` stores them."""
    if quantization.pq_bits == 4:
        return "|u1", n_items, (quantization.pq_dim + 1) // 2
    return quantization.code_dtype.newbyteorder("<").str, n_items, quantization.pq_dim


def _check_offsets(path: Path, list_offsets: Int64, n_items: int) -> None:
    rises = list_offsets[0] == 0 and list_offsets[-1] == n_items
    if not rises or (list_offsets[1:] < list_offsets[:-1]).any():
        raise IndexFormatError(f"{path}: malformed: list_offsets do not rise from 0 to {n_items}")


def _read_item_ids(stored: _StoredArray, list_offsets: Int64) -> Int64:
    item_ids = stored.read()
    rises = item_ids[1:] > item_ids[:-1]
    starts = list_offsets[1:-1]
    rises[starts[(starts > 0) & (starts < len(item_ids))] - 1] = True
    if not rises.all():
        raise IndexFormatError(f"{stored.file.path}: malformed: ids do not rise within a list")
    return item_ids


def _read_codes(stored: _StoredArray, params: IVFPQParams) -> NDArray[np.unsignedinteger]:
    codes = stored.read()
    # Where a code fills its bits, every value is one.
    if params.pq_bits not in (4, 8, 16) and codes.size and codes.max() >= params.pq_book_size:
        raise IndexFormatError(
            f"{stored.file.path}: malformed: expected codes below {params.pq_book_size}, "
            f"got {codes.max()}"
        )
    return codes


def _table_loader(path: Path, header: dict[str, Any]) -> Callable[[], pd.DataFrame | None]:
    if ITEM_TABLE not in header:
        raise IndexFormatError(f"{path}: malformed header: no {ITEM_TABLE}")
    if header[ITEM_TABLE] is None:
        return lambda: None
    stored = _StoredFile.map(path, header[ITEM_TABLE], _TABLE_NAME)
    return lambda: _read_table(stored)


def _read_table(stored: _StoredFile) -> pd.DataFrame:
    content = stored.verified()
    # Here, because these imports take longer than opening the index.
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pa.BufferReader(pa.py_buffer(content)))
        return check_item_table(table.to_pandas())
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise IndexFormatError(f"{stored.path}: malformed item table: {error}") from error


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


def _get(path: Path, values: Any, name: str, expected: type) -> Any:
    """``values[name]``, checked to be there and of the expected JSON type."""
    value = values.get(name) if isinstance(values, dict) else None
    if type(value) is not expected:
        raise IndexFormatError(
            f"{path}: malformed header: expected {name} as {expected.__name__}, got {value!r:.80}"
        )
    return value


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _as_json(info: dict[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(info, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"info: expected JSON values; {error}") from error
