"""What is of one process: CUDA does not survive a fork."""

from __future__ import annotations

import os


class OwnProcess:
    """The process that made this object."""

    def __init__(self) -> None:
        self._id = os.getpid()

    def check(self) -> None:
        """``RuntimeError`` in any other process."""
        if os.getpid() != self._id:
            raise RuntimeError(
                f"searcher: expected process {self._id}, which opened it, got {os.getpid()}: a GPU "
                "cannot be used after a fork: start processes by spawn, and open the searcher in "
                "the child"
            )
