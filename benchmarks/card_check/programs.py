"""Other programs that a step starts: tests, the sanitizer, the profiler, the benchmark."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.card_check.checks import Skipped
from benchmarks.card_check.parent import REPOSITORY


class Program:
    """A program that was started; its output goes to ``output``."""

    def __init__(
        self, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.output = output
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
            )

    def wait(self, seconds: float) -> int | None:
        """Exit status; None where it was stopped after ``seconds``."""
        try:
            return self._process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None

    def text(self) -> str:
        """What it has written."""
        return self.output.read_text(errors="replace")


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    # Of a program that ends by a signal, where it was.
    return [sys.executable, "-X", "faulthandler", *arguments]


def installed(name: str) -> str:
    """The path of a program; ``Skipped`` where there is none."""
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_cuda_folders()))
    if path is None:
        raise Skipped(f"missing: {name}")
    return path


def _cuda_folders() -> list[str]:
    """Where NVIDIA puts its tools, on PATH or not; the newest first."""
    roots = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), Path("/opt/nvidia")]
    patterns = ("bin", "compute-sanitizer", "nsight-compute*/*", "nsight-compute*")
    found = [folder for root in roots for each in patterns for folder in root.glob(each)]
    return [str(folder) for folder in sorted(found, reverse=True)]
