"""What compilers made, kept for the next run and for other processes.

A file is named by all that it was made from: no one ever reads what another source, another flag or
another compiler left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def kept_file(suffix: str, parts: Sequence[str], make: Callable[[Path], object]) -> Path:
    """The file that ``make(path)`` writes from ``parts``; made once.

    Several processes may want the same one: each makes its own, and the last name wins.
    """
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    file = _folder() / f"{digest}{suffix}"
    if not file.exists():
        own = file.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            make(own)
            os.replace(own, file)
        finally:
            own.unlink(missing_ok=True)
    return file


@cache
def _folder() -> Path:
    """$MERLIN_POEEM_EMULATION_CACHE, or .emulation in the repository if it can be written."""
    named = os.environ.get("MERLIN_POEEM_EMULATION_CACHE")
    folder = Path(named) if named else REPOSITORY / ".emulation"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        return folder
    return Path(tempfile.mkdtemp(prefix="merlin-poeem-emulation-"))
