"""The kernels: which there are, and their source, one file with what it includes in its place."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from merlin_poeem.search.gpu.index_shape import MAX_CODE_BYTES

FOLDER = Path(__file__).parent / "cuda"

COMPILER_OPTIONS = ("-std=c++17",)

INCLUDE = re.compile(r'^#include "([\w.]+)"$')


def scan_name(code_bytes: int, spread: bool, plain: bool) -> str:
    """The scan of so many code bytes: its LUT spread over the banks; inner product, no filters."""
    return f"scan<{code_bytes}, {str(spread).lower()}, {str(plain).lower()}>"


@cache
def kernel_source(file: str) -> str:
    """The text of ``search/gpu/cuda/<file>``, each ``#include "…"`` replaced by that file, once.

    ``#line`` directives let a compiler name the file and line that are meant. One text, so that a
    compiler's cache, which goes by the text, sees a change in an included file.
    """
    return "\n".join(_lines(file, set())) + "\n"


def every_kernel() -> list[tuple[str, str]]:
    """(file, name) of all that opening an index and searching can launch: ``Device.kernel``."""
    widths = range(4, MAX_CODE_BYTES + 1, 4)
    return [
        *(("layout.cu", name) for name in ("arrange_codes", "item_terms", "mark_items")),
        ("queries.cu", "prepare_queries"),
        *(("tables.cu", f"multiply_table<{fixed}>") for fixed in ("true", "false")),
        ("lists.cu", "choose_lists"),
        *(
            ("scan.cu", scan_name(width, True, plain))
            for width in widths
            for plain in (True, False)
        ),
        *(("scan.cu", scan_name(width, False, False)) for width in widths),
        ("merge.cu", "merge_parts"),
        *(("pairs.cu", name) for name in ("count_pairs", "place_pairs")),
        ("tiles.cu", "find_candidates"),
        *(("rescore.cu", f"rescore<{width}>") for width in widths),
    ]


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
