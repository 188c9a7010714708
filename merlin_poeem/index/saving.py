"""Save an Index: a directory of ``header.json`` and ``.npy`` arrays (format version 2).

Every save writes its arrays under fresh names, ``codes-3f2a9c1b.npy``, and then replaces
``header.json``, which names them: that rename is the moment at which the new index exists. A crash
before it leaves the old index whole, one after it the new one; what a crash leaves over, the next
save deletes.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.atomic_files import check_reachable, fsync_directory, new_file
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.index.item_table import to_parquet
from merlin_poeem.index.stored_files import (
    FLAT,
    HEADER_FILE,
    ITEM_TABLE,
    MAGIC,
    IndexFormatError,
    canonical,
    is_file_of_index,
    read_header,
    version_for,
)
from merlin_poeem.version import __version__

# Its functions have no types in some NumPy releases.
_npy: Any = np.lib.format


def save_index(index: Index | FlatIndex, path: str | os.PathLike[str]) -> None:
    """Save ``index`` as the directory ``path``, atomically; an index saved there is replaced.

    A process that has the replaced index open goes on reading the old arrays.

    Raises
    ------
    ValueError
        ``path`` is a file, a link to nowhere, or a directory that holds anything but an index;
        ``index.info`` is not JSON; a column of the item table can't be stored as Parquet.
    BlockingIOError
        Another process is saving to ``path``.
    """
    path = Path(path)
    _check_target(path)
    info = _as_json(index.info)
    arrays = _flat_arrays(index) if isinstance(index, FlatIndex) else _arrays_of(index)
    table = None if index.item_table is None else to_parquet(index.item_table)
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
                **_settings_of(index),
                "dim": index.dim,
                "n_items": index.n_items,
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


def _check_target(path: Path) -> None:
    """``ValueError`` unless ``path`` is free, empty, or holds an index that may be replaced."""
    check_reachable(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{path}: expected a directory or a free name to save to, got a file")
    if (path / HEADER_FILE).exists():
        try:
            read_header(path)
        except IndexFormatError as error:
            raise ValueError(
                f"{path}: expected an index to replace, got something else ({error}); "
                "delete it or save elsewhere"
            ) from error
        return
    # What an interrupted first save left over may be replaced.
    foreign = [name for name in sorted(os.listdir(path)) if not is_file_of_index(name)]
    if foreign:
        raise ValueError(
            f"{path}: expected an empty directory or an index to replace, got {len(foreign)} "
            f"other files, such as {foreign[0]}"
        )


def _settings_of(index: Index | FlatIndex) -> dict[str, Any]:
    if isinstance(index, FlatIndex):
        return {"kind": FLAT, "metric": index.metric}
    return {
        "params": index.params.to_dict(),
        "encodes_residual": index.quantization.encodes_residual,
        "has_list_lengths": index.has_list_lengths,
    }


def _flat_arrays(index: FlatIndex) -> dict[str, NDArray[Any]]:
    arrays = {
        "item_ids": index.item_ids,
        "vectors": index.vectors.values,
        "vector_scales": index.vectors.scales,
        "vector_origin": index.vectors.origin,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _arrays_of(index: Index) -> dict[str, NDArray[Any]]:
    quantization, vectors = index.quantization, index.vectors
    arrays = {
        "coarse_centroids": quantization.coarse_centroids,
        "codebook": quantization.codebook,
        "rotation": quantization.rotation,
        "query_rotation": quantization.query_rotation,
        "scale_range": quantization.scale_range,
        "list_offsets": index.list_offsets,
        "list_lengths": index.list_lengths64,
        "item_ids": index.item_ids,
        "codes": index.packed_codes,
        "scales": index.scales,
        "vectors": None if vectors is None else vectors.values,
        "vector_scales": None if vectors is None else vectors.scales,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _created() -> dict[str, str]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"library": "merlin-poeem", "version": __version__, "time": now}


def _write_array(path: Path, name: str, token: str, array: NDArray[Any]) -> dict[str, Any]:
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    with _checksummed_file(path / f"{name}-{token}.npy") as file:
        _npy.write_array(file, array, version=(1, 0), allow_pickle=False)
    return {**file.entry, "dtype": array.dtype.str, "shape": list(array.shape)}


def _write_table(path: Path, token: str, parquet: bytes) -> dict[str, Any]:
    with _checksummed_file(path / f"{ITEM_TABLE}-{token}.parquet") as file:
        file.write(parquet)
    return file.entry


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
def _checksummed_file(path: Path) -> Iterator[_ChecksummedFile]:
    with new_file(path) as file:
        yield _ChecksummedFile(path.name, file)


def _commit_header(path: Path, token: str, header: dict[str, Any]) -> None:
    content = {
        "magic": MAGIC,
        "format_version": version_for(header["arrays"]),
        "crc32": zlib.crc32(canonical(header)),
        "header": header,
    }
    temporary = path / f"header-{token}.tmp"
    with new_file(temporary) as file:
        file.write(json.dumps(content, indent=1).encode())
    os.replace(temporary, path / HEADER_FILE)
    fsync_directory(path)


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


def _delete_strays(path: Path) -> None:
    """Delete the files of other generations than the one that the header names."""
    named = canonical(read_header(path)) if (path / HEADER_FILE).exists() else b""
    for name in os.listdir(path):
        if is_file_of_index(name) and name.encode() not in named:
            with suppress(OSError):
                os.unlink(path / name)


def _as_json(info: dict[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(info, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"info: expected JSON values; {error}") from error
