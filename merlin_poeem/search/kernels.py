"""The kernels' source: one file in ``search/cuda`` with what it includes put in its place."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "cuda"

INCLUDE = re.compile(r'^#include "([\w.]+)"$')


@cache
def kernel_source(file: str) -> str:
    """The text of ``search/cuda/<file>``, each ``#include "…"`` replaced by that file, once.

    ``#line`` directives let a compiler name the file and line that are meant. One text, so that a
    compiler's cache, which goes by the text, sees a change in an included file.
    """
    return "\n".join(_lines(file, set())) + "\n"


def _lines(file: str, included: set[str]) -> list[str]:
    included.add(file)
    lines = [f'#line 1 "{file}"']
    for number, line in enumerate((FOLDER / file).read_text().splitlines(), start=1):
        include = INCLUDE.match(line)
        if include is None:
            if line != "#pragma once":
                lines.append(line)
            continue
        if include[1] not in included:
            lines += _lines(include[1], included)
        lines.append(f'#line {number + 1} "{file}"')
    return lines
