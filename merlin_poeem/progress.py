"""The one place that draws progress bars: on stderr, for work that takes its time."""

from __future__ import annotations

import sys
from functools import partial
from threading import Lock, Timer
from typing import Any

DELAY = 2.0
"""Seconds that a work takes before its bar appears."""


class Progress:
    """How much of a work is done, while it is done, as a bar once :data:`DELAY` is over.

    A timer draws it, so that it appears before a long first step ends too; short work draws
    nothing, and does not import tqdm. Any thread may tell what it has done; what another process
    gets is a copy that counts and draws nothing.
    """

    def __init__(self, work: str, total: int | None, unit: str, *, shown: bool = True) -> None:
        """
        Parameters
        ----------
        work
            What is done, such as ``"search"``.
        total, unit
            How much there is to do, None where that is not known, and of what.
        shown
            False never draws anything.
        """
        self._work, self._total, self._unit = work, total, unit
        self._done, self._doing = 0, ""
        self._bar: Any = None
        self._is_over = False
        self._lock = Lock()
        self._timer = Timer(DELAY, self._appear) if shown else None

    def __reduce__(self) -> Any:
        return partial(Progress, shown=False), (self._work, self._total, self._unit)

    def __enter__(self) -> Progress:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.close()

    def update(self, n: int = 1) -> None:
        """``n`` more are done."""
        with self._lock:
            self._done += n
            if self._bar is not None:
                self._bar.update(n)

    def doing(self, what: str) -> None:
        """What is done from now on, beside the bar."""
        with self._lock:
            self._doing = what
            if self._bar is not None:
                self._bar.set_postfix_str(what)

    def _appear(self) -> None:
        try:
            from tqdm import tqdm  # here, because most work needs none
        except ModuleNotFoundError:
            return  # run from a checkout, without what an installation brings
        with self._lock:
            if self._is_over:
                return
            self._bar = tqdm(
                desc=self._work,
                total=self._total,
                initial=self._done,
                unit=f" {self._unit}",
                postfix=self._doing or None,
                file=sys.stderr,
            )
