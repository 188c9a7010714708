"""The wheel, as ``make wheel`` builds it: what it holds, and that a user gets on with it alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"

pytestmark = pytest.mark.once


def run(*command: str | Path, cwd: Path) -> str:
    """What it prints; ``AssertionError`` with that, and with what went wrong, where it fails."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> str:
    found = shutil.which("uv", path=ROOT / ".venv" / "tools" / "bin") or shutil.which("uv")
    if found is None:
        pytest.skip("needs uv, which `make .venv/tools/.ready` installs")
    return found


@pytest.fixture(scope="module")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Of a copy, as setuptools leaves files beside what it builds.
    aside = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "results")
    source = shutil.copytree(ROOT, folder / "source", ignore=aside)
    build = (uv, "build", "--quiet", "--build-constraints", REQUIREMENTS / "tools.txt")
    run(*build, "--out-dir", folder / "dist", source, cwd=folder)
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_it_holds_the_package_whole(names: list[str]) -> None:
    package = ROOT / "merlin_poeem"
    kinds = {".py", ".cu", ".cuh", ".typed"}
    expected = {p.relative_to(ROOT).as_posix() for p in package.rglob("*") if p.suffix in kinds}
    assert {"merlin_poeem/py.typed", "merlin_poeem/search/gpu/cuda/scan.cu"} <= expected
    assert {Path(name).suffix for name in expected} == kinds
    assert {name for name in names if name.startswith("merlin_poeem/")} == expected


def test_it_holds_nothing_else(names: list[str]) -> None:
    folders = {name.split("/")[0] for name in names}
    folders.discard("merlin_poeem")
    assert len(folders) == 1
    assert folders.pop().endswith(".dist-info")


def test_what_an_index_shows_of_it(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    extras = {"train", "systems", "cpu", "cu12", "cu13", "dask", "text", "plots"}
    assert extras <= set(metadata.get_all("Provides-Extra"))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the lock of its extras is of Python 3.12")
def test_a_user_gets_on_with_it_alone(uv: str, wheel: Path, tmp_path: Path) -> None:
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    run(uv, "venv", "--quiet", "--python", sys.executable, environment, cwd=empty)
    python = environment / "bin" / "python"
    lock = REQUIREMENTS / "current.txt"
    install = (uv, "pip", "install", "--quiet", "--python", python, "--constraints", lock)
    run(*install, f"{wheel}[cpu,text,plots]", cwd=empty)
    printed = run(python, "-I", ROOT / "tests" / "wheel_user.py", cwd=empty)
    assert printed.startswith("all done with ")
    assert (empty / "quality.png").is_file()
