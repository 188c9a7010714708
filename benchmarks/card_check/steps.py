"""What is tried, in order: the most valuable first."""

from __future__ import annotations

from dataclasses import dataclass

PACKAGE = "benchmarks.card_check"


@dataclass(frozen=True)
class Step:
    """A process of its own, so that what it breaks is broken for it alone."""

    name: str
    module: str
    """Its ``run(checks)`` is called in that process."""
    seconds: float
    """The most it may take; less where less is left of the whole."""


STEPS = (
    Step("card", f"{PACKAGE}.card", 20),
    Step("compile", f"{PACKAGE}.compiling", 60),
    Step("paths", f"{PACKAGE}.paths", 60),
    Step("streams", f"{PACKAGE}.streams", 40),
    Step("timings", f"{PACKAGE}.timings", 120),
    Step("contract", f"{PACKAGE}.contract", 90),
    Step("sanitizers", f"{PACKAGE}.sanitizers", 90),
    Step("profiler", f"{PACKAGE}.profiler", 60),
    Step("peers", f"{PACKAGE}.peers", 240),
)
