"""An index split by rows into shards, each a saved index, and the manifest that names them.

Each list's rows are dealt out to all shards in turn. The shards share centroids, codebook and
rotation, so that all of them visit the same lists for a query, and each scans its part of those
lists: the load is even whichever lists are popular, and the best of the shards' best are the best.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merlin_poeem.atomic_files import (
    check_reachable,
    fsync_directory,
    new_file,
    whole_folder,
)
from merlin_poeem.index.copies import fingerprint_of
from merlin_poeem.index.index import Index
from merlin_poeem.index.saving import save_index
from merlin_poeem.index.stored_files import HEADER_FILE, IndexFormatError
from merlin_poeem.quantization.params import positive_int

MAGIC = "merlin_poeem shards"
FORMAT_VERSION = 1
MANIFEST_FILE = "shards.json"

_SHARD_NAME = re.compile(r"shard-\d{4,}")


@dataclass(frozen=True)
class Shard:
    """Where one shard of an index is saved, and which one it has to be."""

    path: str
    fingerprint: str
    n_items: int


def shard_index(index: Index, n_shards: int, folder: str | os.PathLike[str]) -> tuple[Shard, ...]:
    """Save ``index`` as ``n_shards`` shards in ``folder``: all of them or, on an error, nothing.

    Sizes differ by at most one item. A shard takes the rows of the item table that are about its
    items. Memory is that of the index and one shard more.

    Raises
    ------
    TypeError, ValueError
        ``n_shards`` below 1 or above the number of items; an index with item keys, of which no
        shard would know all; a ``folder`` that is a link to nowhere; what
        :func:`~merlin_poeem.save_index` refuses.
    FileExistsError
        There is something at ``folder``: shards are never replaced under a search that uses them.
    """
    n_shards = positive_int("n_shards", n_shards)
    if index.has_item_keys:
        raise ValueError(
            "index: expected one with integer ids, got one with item keys, of which no shard would "
            "know all: shard index.without_item_keys(), and join the keys to what is found"
        )
    if n_shards > max(1, index.n_items):
        raise ValueError(
            f"n_shards: expected at most the index's {index.n_items} items, got {n_shards}"
        )
    check_reachable(folder)
    folder = Path(folder).resolve()
    if folder.exists():
        raise FileExistsError(f"{folder}: expected a free name for the shards, got one in use")
    with whole_folder(folder) as partial:
        names = [f"shard-{number:04d}" for number in range(n_shards)]
        for number, name in enumerate(names):
            save_index(_rows_of_shard(index, number, n_shards), partial / name)
        _write_manifest(partial, names, index.n_items)
    return load_shards(folder)


def load_shards(folder: str | os.PathLike[str]) -> tuple[Shard, ...]:
    """The shards that :func:`shard_index` saved in ``folder``, each shown to be there.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``folder``, or a shard is missing.
    IndexFormatError
        What is there are no shards, of a newer version, or damaged, or one is of another split.
    """
    folder = Path(folder).resolve()
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no shards there")
    shards = tuple(_shard_of(folder, entry) for entry in _read_manifest(folder))
    for shard in shards:
        if not (Path(shard.path) / HEADER_FILE).is_file():
            raise FileNotFoundError(f"{shard.path}: missing: one of {len(shards)} shards")
        found = fingerprint_of(shard.path)
        if found != shard.fingerprint:
            raise IndexFormatError(
                f"{shard.path}: expected the shard with fingerprint {shard.fingerprint}, got "
                f"{found}: it is of another split"
            )
    return shards


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a folder of shards, and no saved index."""
    return (Path(path) / MANIFEST_FILE).is_file()


def _rows_of_shard(index: Index, number: int, n_shards: int) -> Index:
    # Rows are sorted by list: every n-th of them is every n-th of each list.
    return index.part(slice(number, None, n_shards))


def _write_manifest(folder: Path, names: list[str], n_items: int) -> None:
    sizes = [len(range(number, n_items, len(names))) for number in range(len(names))]
    shards = [
        {"name": name, "fingerprint": fingerprint_of(folder / name), "n_items": size}
        for name, size in zip(names, sizes, strict=True)
    ]
    content = {
        "magic": MAGIC,
        "format_version": FORMAT_VERSION,
        "crc32": _checksum(shards),
        "shards": shards,
    }
    with new_file(folder / MANIFEST_FILE) as file:
        file.write(json.dumps(content, indent=1).encode())
    fsync_directory(folder)


def _read_manifest(folder: Path) -> list[Any]:
    """The verified entries of the shards."""
    file = folder / MANIFEST_FILE
    if not file.is_file():
        raise IndexFormatError(f"{folder}: not shards: it holds no {MANIFEST_FILE}")
    try:
        content = json.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{folder}: not shards: {MANIFEST_FILE} is not JSON") from error
    if not isinstance(content, dict) or content.get("magic") != MAGIC:
        raise IndexFormatError(f"{folder}: not shards: {MANIFEST_FILE} has no magic {MAGIC!r}")
    version, shards = content.get("format_version"), content.get("shards")
    if type(version) is int and version > FORMAT_VERSION:
        raise IndexFormatError(
            f"{folder}: newer version: written in format {version}, this merlin_poeem reads up to "
            f"{FORMAT_VERSION}; upgrade it"
        )
    if _checksum(shards) != content.get("crc32"):
        raise IndexFormatError(f"{folder}: checksum mismatch: {MANIFEST_FILE} is damaged")
    if version != FORMAT_VERSION or not isinstance(shards, list) or not shards:
        raise IndexFormatError(f"{folder}: malformed {MANIFEST_FILE}: version or shards")
    return shards


def _shard_of(folder: Path, entry: Any) -> Shard:
    types = {"name": str, "fingerprint": str, "n_items": int}
    values = entry if isinstance(entry, dict) else {}
    if {name: type(value) for name, value in values.items()} != types:
        raise IndexFormatError(f"{folder}: malformed {MANIFEST_FILE}: shard {entry!r:.80}")
    # The pattern keeps the manifest from pointing outside of its folder.
    if not _SHARD_NAME.fullmatch(entry["name"]):
        raise IndexFormatError(f"{folder}: malformed {MANIFEST_FILE}: name {entry['name']!r}")
    return Shard(str(folder / entry["name"]), entry["fingerprint"], entry["n_items"])


def _checksum(shards: Any) -> int:
    return zlib.crc32(json.dumps(shards, sort_keys=True, separators=(",", ":")).encode())
