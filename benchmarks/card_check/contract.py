"""Step: the contract that all backends keep, on the card, each way a process and a line."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from importlib.util import find_spec
from typing import Any

from benchmarks.card_check.checks import Checks, Skipped
from benchmarks.card_check.programs import Program, python

TESTS = ("tests/search/test_contract.py", "tests/search/test_flat_contract.py")
# What tells each way's tests from the others': CARD_OPENERS and FLAT_GPU_OPENERS of
# tests/search/gpu/openers.py.
WORDS = ("split", "compact", "bulk", "chunks", "stream", "dlpack")
WAYS = {
    "as planned": f"card and not ({' or '.join(WORDS)})",
    **{word: f"card and {word}" for word in WORDS},
}
EMULATED_WAYS = {"as planned": "test_one_item and gpu and not card and inner_product"}
OUTCOME = re.compile(r"^(\S.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)", re.MULTILINE)
MOST_NAMED = 10


def run(checks: Checks) -> None:
    """All ways at once: the definition that they are compared with takes the time."""
    ways = EMULATED_WAYS if checks.emulate else WAYS
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        checks.run("contract", partial(_skip, f"missing: {', '.join(missing)}"))
        return
    programs = {
        way: Program(_command(words), checks.logs / f"contract_{way.split()[-1]}.txt")
        for way, words in ways.items()
    }
    for way, program in programs.items():
        checks.run(way, partial(_outcome, checks, program), limit=600)


def _skip(reason: str) -> dict[str, Any]:
    raise Skipped(reason)


def _command(words: str) -> list[str]:
    return python(
        *("-m", "pytest", *TESTS, "-k", words, "-v", "-rN", "--tb=short", "--color=no"),
        *("-p", "no:cacheprovider", "-p", "no:xdist"),
    )


def _outcome(checks: Checks, program: Program) -> dict[str, Any]:
    code = program.wait(checks.seconds_left - 1)
    text = program.text()
    outcomes = Counter(outcome for _, outcome in OUTCOME.findall(text))
    failed = [name for name, outcome in OUTCOME.findall(text) if outcome in ("FAILED", "ERROR")]
    kept: dict[str, Any] = {"outcomes": dict(outcomes), "failed": failed[:MOST_NAMED]}
    if code is None:
        return kept | {"status": "timed out", "error": f"stopped after {dict(outcomes)}"}
    if code != 0:
        error = f"{len(failed)} failed, exit status {code}: {text[-1500:]}"
        return kept | {"status": "failed", "error": error}
    if not outcomes["PASSED"]:
        return kept | {"status": "skipped", "error": f"no test ran: {dict(outcomes)}"}
    return kept
