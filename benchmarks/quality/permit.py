"""The leave to read test pairs: given once, for the choices that are written down."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.parts import TEST
from merlin_poeem.atomic_files import replacing_file

CHOSEN = "chosen.json"
TEST_READ = "test_read.json"


@dataclass(frozen=True)
class Permit:
    """Test pairs may be read; only :meth:`begin` and :meth:`of` make one."""

    digest: str
    """SHA-256 of the choices that it was given for."""

    @classmethod
    def begin(cls, folder: Path) -> Permit:
        """The first time, or again for the same choices; ``PermissionError`` otherwise."""
        digest = _digest(folder)
        path = folder / TEST_READ
        if not path.is_file():
            with replacing_file(path) as file:
                file.write(json.dumps({"chosen_sha256": digest}).encode())
        return cls.of(folder)

    @classmethod
    def of(cls, folder: Path) -> Permit:
        """The one that has been given; ``PermissionError`` where there is none, or for others."""
        digest = _digest(folder)
        path = folder / TEST_READ
        if not path.is_file():
            raise PermissionError(
                f"{path}: expected the permit of benchmarks.quality.final, got none; "
                "only that command reads test pairs"
            )
        read_for = json.loads(path.read_text())["chosen_sha256"]
        if read_for != digest:
            raise PermissionError(
                f"{folder / CHOSEN}: expected the choices that test pairs were read for "
                f"({read_for[:12]}), got others ({digest[:12]}); a second read for other choices "
                "is what this benchmark must not do"
            )
        return cls(digest)


def require_permit(part: str, permit: Permit | None) -> None:
    """``PermissionError`` for the part of test pairs without a permit to read them."""
    if part == TEST and permit is None:
        raise PermissionError(
            "part: expected a permit to read test pairs, got none; benchmarks.quality.final has it"
        )


def _digest(folder: Path) -> str:
    path = folder / CHOSEN
    if not path.is_file():
        raise PermissionError(
            f"{path}: expected choices before test pairs are read, got none; "
            "run benchmarks.quality.choice first"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()
