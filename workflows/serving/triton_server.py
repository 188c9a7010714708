"""A real Triton server on the loopback, out of the wheel ``nvidia-pytriton``: no container.

``make .venv/triton/.ready`` makes the environment. The wheel holds ``tritonserver`` and its Python
backend; models run in the environment's own Python.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv" / "triton"
OLDEST_GLIBC = (2, 35)
HOST = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 20
ANSWER_SECONDS = 60
LOG_LINES = 60
STACK_KB = 128 << 10
"""Of the server's threads. Triton before 25.08 takes an HTTP request's body on the stack, where one
of more than half of it ends the server (issue 5840 of triton-inference-server/server)."""

_ASK = """
import json, sys, sysconfig
from importlib.util import find_spec
found = find_spec("pytriton")
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "library": sysconfig.get_config_var("INSTSONAME"),
    "library_folder": sysconfig.get_config_var("LIBDIR"),
    "package": found and list(found.submodule_search_locations)[0],
}))
"""


class NoTritonServer(RuntimeError):
    """This machine or the environment has no server to start; the message says what is missing."""


@dataclass(frozen=True)
class Installation:
    """The server of an environment, and what it needs to start there."""

    server: Path
    """The folder of ``bin/tritonserver`` and ``backends/``."""

    stub: Path
    """The process of the Python backend that runs models in the environment's Python."""

    libraries: tuple[Path, ...]
    """Folders of shared libraries, that of Python's own among them."""

    programs: Path
    """The environment's ``bin``: the stub takes the environment of the ``python3`` found first."""


def find_installation(environment: Path = ENVIRONMENT) -> Installation:
    """The server installed in a virtual environment.

    ``NoTritonServer`` where there is none, the C library is too old for it, or the environment's
    Python comes without a shared library, which the Python backend loads.
    """
    name, release = platform.libc_ver()
    if name != "glibc" or tuple(map(int, release.split(".")[:2])) < OLDEST_GLIBC:
        oldest = ".".join(map(str, OLDEST_GLIBC))
        raise NoTritonServer(f"glibc: expected {oldest} or newer, got {name or 'none'} {release}")
    python = environment / "bin" / "python3"
    if not python.exists():
        raise NoTritonServer(f"{environment}: expected an environment; make .venv/triton/.ready")
    asked = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True)
    facts = json.loads(asked.stdout)
    if facts["package"] is None:
        raise NoTritonServer(f"{environment}: expected nvidia-pytriton in it, got none")
    package = Path(facts["package"])
    server, library = package / "tritonserver", Path(facts["library_folder"], facts["library"])
    stub = server / "python_backend_stubs" / facts["version"] / "triton_python_backend_stub"
    for needed in (server / "bin" / "tritonserver", stub, library):
        if not needed.exists():
            raise NoTritonServer(f"{needed}: expected the file, got none")
    libraries = library.parent, package.parent / "nvidia_pytriton.libs"
    return Installation(server, stub, libraries, environment / "bin")


class TritonServer:
    """A server that runs: its addresses, its answers about itself, its models."""

    def __init__(
        self, process: subprocess.Popen[bytes], repository: Path, ports: list[int], log: Path
    ) -> None:
        self.process = process
        self.repository = repository
        self.log = log
        self.http, self.grpc, self.metrics_address = (f"{HOST}:{port}" for port in ports)

    def get(self, path: str) -> bytes:
        """The body of ``GET http://…/path``; ``HTTPError`` where that is refused."""
        with urlopen(f"http://{self.http}/{path}", timeout=ANSWER_SECONDS) as response:
            return bytes(response.read())

    def is_ready(self) -> bool:
        """Whether every model of the repository is there; one that was unloaded is not."""
        try:
            self.get("v2/health/ready")
        except (URLError, ConnectionError, TimeoutError):
            return False
        return True

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's own counts and nanoseconds of the model's newest version."""
        stats = json.loads(self.get(f"v2/models/{model}/stats"))["model_stats"]
        newest: dict[str, Any] = max(stats, key=lambda each: int(each["version"]))
        return newest

    def metrics(self, name: str) -> dict[str, float]:
        """The values of a metric of ``/metrics``, by their labels as they are written there."""
        with urlopen(f"http://{self.metrics_address}/metrics", timeout=ANSWER_SECONDS) as response:
            lines = response.read().decode().splitlines()
        found = (re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line) for line in lines)
        return {match[1] or "": float(match[2]) for match in found if match}

    def load(self, model: str) -> None:
        """Load a model, or its newer version, and return when it answers.

        Requests go to the old version until then. Where none of the model's files has changed,
        Triton does nothing. ``RuntimeError`` where it does not load, with what Triton says; the old
        version then stays.
        """
        self._tell(model, "load")

    def unload(self, model: str) -> None:
        """Answer no more requests to a model; ``RuntimeError`` where there is none."""
        self._tell(model, "unload")

    def last_lines(self) -> str:
        """The end of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def _tell(self, model: str, what: str) -> None:
        request = Request(f"http://{self.http}/v2/repository/models/{model}/{what}", b"{}")
        try:
            urlopen(request, timeout=ANSWER_SECONDS).close()
        except HTTPError as error:
            raise RuntimeError(f"{what} {model}: {error.read().decode()}") from error


@contextmanager
def triton_server(
    repository: Path,
    *,
    log: Path | None = None,
    environment: Path = ENVIRONMENT,
    variables: Mapping[str, str] | None = None,
    poll_seconds: int | None = None,
) -> Iterator[TritonServer]:
    """Serve all models of ``repository`` until the block ends; ready when it begins.

    It listens on free ports of the loopback only.

    Parameters
    ----------
    repository
        What ``tritonserver --model-repository`` takes.
    log
        A file for what server and models print; None writes a file that is removed at the end.
    environment
        A virtual environment with ``nvidia-pytriton``; models run in it.
    variables
        Environment variables of the models, such as ``OMP_NUM_THREADS``.
    poll_seconds
        How often the server looks into the repository for new versions; None is never: models then
        change when told to, :meth:`TritonServer.load`.

    Raises
    ------
    NoTritonServer
        See :func:`find_installation`.
    RuntimeError
        The server stopped before it was ready, or was not within ``START_SECONDS``: with the end of
        its log.
    """
    installation, repository = find_installation(environment), Path(repository).resolve()
    with ExitStack() as stack:
        aside = Path(stack.enter_context(TemporaryDirectory(prefix="triton")))
        log = aside / "log" if log is None else log
        ports = free_ports(3)
        command: list[str | Path] = [
            *("/bin/sh", "-c", f'ulimit -s {STACK_KB}; exec "$@"', "sh"),
            installation.server / "bin" / "tritonserver",
            f"--model-repository={repository}",
            f"--backend-directory={_backends(installation, aside / 'backends')}",
            *_control(poll_seconds),
            f"--exit-timeout-secs={STOP_SECONDS // 4}",
            *(
                f"--{name}-{part}={value}"
                for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)
                for part, value in (("address", HOST), ("port", port))
            ),
        ]
        output = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command,
            env=_variables(installation, variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stack.callback(_stop, process)
        server = TritonServer(process, repository, ports, log)
        _wait_until_ready(server)
        yield server


def _control(poll_seconds: int | None) -> tuple[str, str]:
    if poll_seconds is None:
        return "--model-control-mode=explicit", "--load-model=*"
    return "--model-control-mode=poll", f"--repository-poll-secs={poll_seconds}"


def free_ports(n: int) -> list[int]:
    """``n`` ports of the loopback that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _backends(installation: Installation, folder: Path) -> Path:
    """The wheel's Python backend, with the stub of the environment's Python in its place."""
    python = folder / "python"
    shutil.copytree(installation.server / "backends" / "python", python)
    shutil.copy2(installation.stub, python)
    return folder


def _variables(installation: Installation, more: Mapping[str, str]) -> dict[str, str]:
    """Without what would lead the models' Python into another environment."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    variables["PATH"] = f"{installation.programs}{os.pathsep}{variables.get('PATH', os.defpath)}"
    # A __pycache__ in a version's folder is a change to Triton, which then loads it again.
    variables["PYTHONDONTWRITEBYTECODE"] = "1"
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, installation.libraries))
    return variables | dict(more)


def _wait_until_ready(server: TritonServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.is_ready():
        status = server.process.poll()
        if status is not None:
            raise RuntimeError(f"tritonserver stopped with {status}:\n{server.last_lines()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready after {START_SECONDS} s:\n{server.last_lines()}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
