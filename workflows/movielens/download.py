"""MovieLens from its publisher: fetched once, unpacked, kept."""

from __future__ import annotations

import urllib.request
import zipfile
from pathlib import Path
from urllib.error import URLError

from tqdm import tqdm

from workflows.movielens.data import FOLDERS

URL = "https://files.grouplens.org/datasets/movielens/{name}.zip"
CACHE = Path("~/.cache/merlin_poeem")


def download(variant: str, cache: Path) -> Path:
    """The folder of ``variant`` in ``cache``, fetched from the publisher if it is not there."""
    name = FOLDERS[variant]
    folder = cache / name
    if folder.is_dir():
        return folder
    url = URL.format(name=name)
    archive = cache / f"{name}.zip"
    cache.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {url} to {cache}; its README holds the terms of use.")
    try:
        _fetch(url, archive)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise ConnectionError(
            f"{url} could not be fetched ({error}); without a network, pass --data FOLDER"
        ) from error
    _unpack(archive, cache, name)
    return folder


def _fetch(url: str, path: Path) -> None:
    """Download with a progress bar; ``path`` appears only when it is whole."""
    partial = path.with_suffix(".partial")
    with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as out:
        total = int(response.headers.get("Content-Length", 0))
        with tqdm(total=total or None, unit="B", unit_scale=True, desc=path.name) as bar:
            while chunk := response.read(1 << 16):
                out.write(chunk)
                bar.update(len(chunk))
    if total and partial.stat().st_size != total:
        got = partial.stat().st_size
        raise ConnectionError(f"expected {total} bytes, got {got}: the connection broke")
    partial.replace(path)


def _unpack(archive: Path, cache: Path, name: str) -> None:
    """Unpack the files of folder ``name``, which appears only when all are there."""
    unpacking = cache / f"{name}.unpacking"
    try:
        with zipfile.ZipFile(archive) as packed:
            damaged = packed.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged")
            members = [m for m in packed.namelist() if m.startswith(f"{name}/")]
            if not members:
                raise zipfile.BadZipFile(f"no {name}/ in it")
            packed.extractall(unpacking, members)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise ValueError(
            f"{archive}: expected a zip file of {name}/, got another ({error}), now removed"
        ) from error
    (unpacking / name).replace(cache / name)
    unpacking.rmdir()
