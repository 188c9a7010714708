"""Step: the paths again, under NVIDIA's compute-sanitizer, where it is installed."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from benchmarks.card_check.checks import PLAIN_ALLOCATIONS, Checks, Skipped
from benchmarks.card_check.programs import Program, installed, python

TOOLS = ("memcheck", "racecheck")
ERROR_STATUS = 9
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")
OUTPUT_CHARACTERS = 3000


def run(checks: Checks) -> None:
    """Each tool a line; what the paths say under it are lines of a step of its name."""
    for number, tool in enumerate(TOOLS):
        share = checks.seconds_left / (len(TOOLS) - number)
        checks.run(tool, partial(_sanitize, checks, tool, share), limit=600)


def _sanitize(checks: Checks, tool: str, seconds: float) -> dict[str, Any]:
    if checks.emulate:
        raise Skipped("needs a card")
    command = [installed("compute-sanitizer"), "--tool", tool, "--error-exitcode"]
    command += [str(ERROR_STATUS), "--target-processes", "all"]
    command += python("-m", "benchmarks.card_check.child", "benchmarks.card_check.paths", tool)
    command += [str(checks.lines.path), checks.lines.run, str(checks.logs)]
    command += [str(max(1.0, seconds - 5)), "--within"]
    # Each array an allocation of its own: else neighbours in a pool hide what lies outside.
    environment = {PLAIN_ALLOCATIONS: "1"}
    program = Program(command, checks.logs / f"{tool}.txt", environment)
    code = program.wait(seconds)
    text = program.text()
    found = SUMMARY.findall(text)
    kept: dict[str, Any] = {"errors": int(found[-1]) if found else None}
    if code is None:
        return kept | {"status": "timed out", "error": _relevant(text)}
    if code != 0 or not found or int(found[-1]):
        return kept | {"status": "failed", "error": f"exit status {code}: {_relevant(text)}"}
    return kept


def _relevant(text: str) -> str:
    """The tool's own lines."""
    lines = [line for line in text.splitlines() if line.startswith("=====")]
    return "\n".join(lines)[:OUTPUT_CHARACTERS] or text[-OUTPUT_CHARACTERS:]
