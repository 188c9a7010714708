"""Runs the steps, each in a process of its own, and says of each how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from benchmarks.card_check.checks import DEAD_CARD, HUNG
from benchmarks.card_check.lines import Lines
from benchmarks.card_check.steps import Step

REPOSITORY = Path(__file__).resolve().parents[2]
# A step is told to stop this long before it is stopped.
GRACE_SECONDS = 5
LEAST_SECONDS = 1
OUTPUT_CHARACTERS = 2000


def run_steps(
    steps: Sequence[Step], lines: Lines, minutes: float, logs: Path, *, emulate: bool
) -> None:
    """Run ``steps`` one after the other for at most ``minutes``.

    ``logs`` is the folder of what the programs write that steps start.
    """
    deadline = time.monotonic() + 60 * minutes
    names = [step.name for step in steps]
    lines.write(step="run", event="start", steps=names, minutes=minutes, emulated=emulate)
    for step in steps:
        seconds = min(step.seconds, deadline - time.monotonic())
        if seconds < LEAST_SECONDS:
            lines.write(step=step.name, event="step", status="not run", error="no time was left")
            continue
        print(f"{step.name}: at most {seconds:.0f} s", flush=True)
        _run_step(step, lines, seconds, logs, emulate)


def _run_step(step: Step, lines: Lines, seconds: float, logs: Path, emulate: bool) -> None:
    """Start ``step``, anew after each check that ended its process, while there is time."""
    started = time.monotonic()
    lines.write(step=step.name, event="step begins")
    while True:
        left = seconds - (time.monotonic() - started)
        n_ended = len(_ended(lines, step))
        code, output = _run_child(step, lines, left, logs, emulate)
        status = _status(code)
        _end_what_began(lines, step, status, output)
        progress = len(_ended(lines, step)) > n_ended
        left = seconds - (time.monotonic() - started)
        if code in (0, None) or not progress or left < LEAST_SECONDS:
            break
        print(f"  {step.name}: its process {status}; the checks that are left follow", flush=True)
    error = None if code == 0 else output
    took = time.monotonic() - started
    lines.write(step=step.name, event="step", status=status, took=took, error=error)
    if code != 0:
        print(f"  {step.name}: {status}", flush=True)


def _run_child(
    step: Step, lines: Lines, seconds: float, logs: Path, emulate: bool
) -> tuple[int | None, str]:
    """Exit status, None where it was stopped, and the end of what it wrote to stderr."""
    command = [sys.executable, "-m", "benchmarks.card_check.child", step.module, step.name]
    own_seconds = max(seconds / 2, seconds - GRACE_SECONDS)
    command += [str(lines.path.resolve()), lines.run, str(logs.resolve()), str(own_seconds)]
    command += ["--emulate"] if emulate else []
    with tempfile.TemporaryFile("w+") as errors:
        # A group, not a session: what ends this process' session ends the step too.
        process = subprocess.Popen(
            command, stderr=errors, cwd=REPOSITORY, preexec_fn=os.setpgrp, env=_environment()
        )
        code: int | None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
        return code, _tail(errors)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the step's process, and of what that started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(file: IO[str]) -> str:
    file.seek(0)
    return file.read()[-OUTPUT_CHARACTERS:]


def _status(code: int | None) -> str:
    if code is None:
        return "timed out"
    if code < 0:
        return f"died ({signal.Signals(-code).name})"
    known = {0: "done", DEAD_CARD: "died (the card refuses all)", HUNG: "died (a check hung)"}
    return known.get(code, f"died (exit status {code})")


def _ended(lines: Lines, step: Step) -> list[str]:
    return [
        line["name"]
        for line in lines.read()
        if line["step"] == step.name and line["event"] == "end"
    ]


def _end_what_began(lines: Lines, step: Step, status: str, output: str) -> None:
    """A line for the check in which the process ended."""
    ended = set(_ended(lines, step))
    began = [
        line["name"]
        for line in lines.read()
        if line["step"] == step.name and line["event"] == "begin"
    ]
    for name in dict.fromkeys(began):
        if name not in ended:
            lines.write(step=step.name, event="end", name=name, status=status, error=output)
