"""MovieLens from its publisher: fetched once; damaged archives and no network."""

from __future__ import annotations

import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.workflows.movielens.published import N_FILMS
from workflows.movielens import download as downloading
from workflows.movielens.data import read
from workflows.movielens.download import download


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that downloads come from."""
    folder = tmp_path / "publisher"
    folder.mkdir()
    monkeypatch.setattr(downloading, "URL", folder.as_uri() + "/{name}.zip")
    return folder


def test_fetches_once_and_unpacks(publisher: Path, ml_1m: Path, tmp_path: Path) -> None:
    archive = publisher / "ml-1m.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in ml_1m.iterdir():
            packed.write(path, f"ml-1m/{path.name}")
    folder = download("1m", tmp_path / "cache")
    archive.unlink()
    assert download("1m", tmp_path / "cache") == folder
    assert len(read(folder, "1m").items) == N_FILMS


def test_a_damaged_archive_is_refused_and_removed(publisher: Path, tmp_path: Path) -> None:
    (publisher / "ml-1m.zip").write_bytes(b"no zip file")
    with pytest.raises(ValueError, match="expected a zip file of ml-1m/, got another"):
        download("1m", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_of_something_else(publisher: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(publisher / "ml-1m.zip", "w") as packed:
        packed.writestr("other/ratings.dat", "")
    with pytest.raises(ValueError, match="expected a zip file of ml-1m/"):
        download("1m", tmp_path / "cache")


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(downloading.urllib.request, "urlopen", fail)
    with pytest.raises(ConnectionError, match="without a network, pass --data FOLDER"):
        download("100k", tmp_path / "cache")
