"""What starts a Triton server: what it says where it can't, and that it leaves nothing running."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from workflows.serving.triton_server import (
    NoTritonServer,
    find_installation,
    free_ports,
    triton_server,
)

BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("this model is broken")
"""


def test_no_environment(tmp_path: Path) -> None:
    with pytest.raises(NoTritonServer, match=r"expected an environment; make .venv/triton"):
        find_installation(tmp_path)


def test_an_environment_without_it() -> None:
    with pytest.raises(NoTritonServer, match="expected nvidia-pytriton in it, got none"):
        find_installation(Path(sys.prefix))


@pytest.mark.parametrize("found", [("glibc", "2.31"), ("", "")])
def test_an_old_c_library(monkeypatch: pytest.MonkeyPatch, found: tuple[str, str]) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: found)
    with pytest.raises(NoTritonServer, match=r"glibc: expected 2.35 or newer, got (glibc|none)"):
        find_installation()


def test_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


@pytest.fixture
def needs_server() -> None:
    try:
        find_installation()
    except NoTritonServer as missing:
        pytest.skip(f"needs a Triton server: {missing}")


@pytest.mark.usefixtures("needs_server")
def test_a_model_that_does_not_load_is_told(tmp_path: Path) -> None:
    version = tmp_path / "repository" / "broken" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(BROKEN)
    (version.parent / "config.pbtxt").write_text('backend: "python"\n')
    with (
        pytest.raises(RuntimeError, match=r"(?s)tritonserver stopped.*this model is broken"),
        triton_server(tmp_path / "repository"),
    ):
        pass


@pytest.mark.usefixtures("needs_server")
def test_it_stops_whatever_happens(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    servers = []

    def fail() -> None:
        with triton_server(tmp_path / "repository", log=tmp_path / "log") as server:
            servers.append(server)
            assert server.is_ready()
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        fail()
    (server,) = servers
    assert server.process.poll() is not None
    assert not server.is_ready()
    assert "Started HTTPService" in server.last_lines()
