"""Steps for the tests of the card check: what a card may do to a process."""

import os
import time
from typing import Any

from benchmarks.card_check.checks import DEAD_CARD, Checks


def fine() -> dict[str, Any]:
    return {"number": 7}


def wrong() -> dict[str, Any]:
    raise ValueError("not what was expected")


def crash() -> dict[str, Any]:
    os.abort()


def hang() -> dict[str, Any]:
    time.sleep(600)
    return {}


def dead() -> dict[str, Any]:
    os._exit(DEAD_CARD)


def run(checks: Checks) -> None:
    """A check of each kind that the step's name lists, in its order."""
    works = {"fine": fine, "wrong": wrong, "crash": crash, "hang": hang, "dead": dead}
    for number, kind in enumerate(checks.step.split("-")):
        limit = 1 if kind == "hang" and "limited" in checks.step else 500
        if kind in works:
            checks.run(f"{number} {kind}", works[kind], limit=limit)
