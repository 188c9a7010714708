"""Checks of a step: each one a line when it begins and a line when it ends."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.card_check.lines import Lines

# Exit statuses by which a step asks to be started anew, for the checks that are left.
DEAD_CARD, HUNG = 70, 71
TRACE_CHARACTERS = 1500


class Skipped(Exception):
    """Raised by a check that this machine cannot make; says why."""


class Checks:
    """Runs the checks of ``step`` that have no line yet, until ``seconds`` are over."""

    def __init__(
        self, lines: Lines, step: str, seconds: float, logs: Path, *, emulate: bool
    ) -> None:
        self.lines, self.step, self.emulate = lines, step, emulate
        self.logs = logs
        """The folder of what other programs write."""
        self._deadline = time.monotonic() + seconds
        self._ended = {
            line["name"] for line in lines.read() if line["step"] == step and line["event"] == "end"
        }

    @property
    def seconds_left(self) -> float:
        """Until the step is stopped."""
        return self._deadline - time.monotonic()

    @cached_property
    def device(self) -> Any:
        """The card, or the emulation."""
        if self.emulate:
            from tests.search.gpu.emulation.device import EmulatedDevice

            return EmulatedDevice()
        from merlin_poeem.search.gpu.device import CupyDevice

        device = CupyDevice()
        if os.environ.get(PLAIN_ALLOCATIONS):
            # Else neighbours in CuPy's pool hide what lies outside an array.
            device.xp.cuda.set_allocator(None)
        return device

    def run(self, name: str, work: Callable[[], dict[str, Any] | None], limit: float = 30) -> None:
        """Run ``work``, which returns what is to be kept and raises where something is wrong.

        After ``limit`` seconds it counts as hung, and the process ends.
        """
        if name in self._ended:
            return
        if self.seconds_left <= 0:
            self._end(name, "not run", error="no time was left")
            return
        self.lines.write(step=self.step, event="begin", name=name)
        watch = threading.Timer(limit, self._give_up, (name, limit))
        watch.daemon = True
        watch.start()
        started = time.perf_counter()
        try:
            kept = work() or {}
            self._wait_for_card()
        except Skipped as reason:
            watch.cancel()
            self._end(name, "skipped", error=str(reason))
        except Exception as error:  # whatever is wrong, the other checks are made
            watch.cancel()
            trace = traceback.format_exc()[-TRACE_CHARACTERS:]
            self._end(name, "failed", error=_describe(error), trace=trace)
            self._end_with_dead_card()
        else:
            watch.cancel()
            seconds = time.perf_counter() - started
            self._end(name, kept.pop("status", "passed"), took=seconds, **kept)

    def _end(self, name: str, status: str, **kept: Any) -> None:
        self._ended.add(name)
        self.lines.write(step=self.step, event="end", name=name, status=status, **kept)
        note = f": {kept['error'][:200]}" if kept.get("error") else ""
        print(f"  {self.step}: {name}: {status}{note}\n", end="", flush=True)

    def _give_up(self, name: str, limit: float) -> None:
        self._end(name, "timed out", error=f"no answer within {limit:.0f} s")
        os._exit(HUNG)

    def _wait_for_card(self) -> None:
        """Until all is done: an error of a kernel belongs to the check that launched it."""
        if not self.emulate and "device" in vars(self):
            self.device.xp.cuda.runtime.deviceSynchronize()

    def _end_with_dead_card(self) -> None:
        """An illegal address ends all that the process could still do on the card."""
        try:
            self._wait_for_card()
        except Exception:
            os._exit(DEAD_CARD)


PLAIN_ALLOCATIONS = "CARD_CHECK_PLAIN_ALLOCATIONS"
"""Environment variable: every device array an allocation of its own."""


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip()[:TRACE_CHARACTERS]
