"""The process of a step, which ``parent.py`` starts."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import threading
import time
from pathlib import Path

from benchmarks.card_check.checks import Checks
from benchmarks.card_check.lines import Lines

WATCH_SECONDS = 0.5


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("module", "step", "file", "run", "logs"):
        parser.add_argument(name)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--within", action="store_true", help="its parent is another program")
    options = parser.parse_args()
    if not options.within:
        end_with_parent()
    lines = Lines(Path(options.file), options.run)
    logs, seconds = Path(options.logs), options.seconds
    checks = Checks(lines, options.step, seconds, logs, emulate=options.emulate)
    importlib.import_module(options.module).run(checks)


def end_with_parent() -> None:
    """End, with all that this process started, once the process that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
