"""The kernels: which there are, and their source, one file with what it includes in its place."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from merlin_poeem.search.gpu.bulk_plan import HELD_STEPS
from merlin_poeem.search.gpu.index_shape import MAX_CODE_BYTES
from merlin_poeem.search.gpu.shared_memory import LARGE_QUERY_TILE, QUERY_TILE

FOLDER = Path(__file__).parent / "cuda"

COMPILER_OPTIONS = ("-std=c++17",)

INCLUDE = re.compile(r'^#include "([\w.]+)"$')


def scan_name(code_bytes: int, spread: bool, plain: bool, fixed: bool = True) -> str:
    """The scan of so many code bytes.

    Its LUT spread over the banks; inner product, no filters; its LUT in fixed point.
    """
    flags = ", ".join(str(flag).lower() for flag in (spread, plain, fixed))
    return f"scan<{code_bytes}, {flags}>"


@cache
def kernel_source(file: str) -> str:
    """The text of ``search/gpu/cuda/<file>``, each ``#include "…"`` replaced by that file, once.

    ``#line`` directives let a compiler name the file and line that are meant. One text, so that a
    compiler's cache, which goes by the text, sees a change in an included file.
    """
    return "\n".join(_lines(file, set())) + "\n"


def table_name(fixed: bool, tile: int, columns: int) -> str:
    """Products with a table, in fixed point or as float32.

    Of ``tile`` queries and ``columns`` columns a thread at a time.
    """
    return f"multiply_table<{str(fixed).lower()}, {tile}, {columns}>"


def tiles_name(steps: int, plain: bool) -> str:
    """Candidates by tiles whose items stay in registers for ``steps`` steps."""
    return f"find_candidates<{steps}, {str(plain).lower()}>"


def refine_name(half: bool, l2: bool) -> str:
    """The second look at float16 vectors, or else int8, by distance, or else by product."""
    return f"refine<{str(half).lower()}, {str(l2).lower()}>"


def score_items_name(value_bytes: int, l2: bool) -> str:
    """Exact scores by vectors of float32, float16 or int8, by distance, or else by product."""
    return f"score_items<{value_bytes}, {str(l2).lower()}>"


def every_kernel() -> list[tuple[str, str]]:
    """(file, name) of all that opening an index and searching can launch: ``Device.kernel``."""
    widths = range(4, MAX_CODE_BYTES + 1, 4)
    return [
        *(("layout.cu", name) for name in ("arrange_codes", "item_terms", "mark_items")),
        ("queries.cu", "prepare_queries"),
        *(
            ("tables.cu", table_name(fixed, tile, 1))
            for fixed in (True, False)
            for tile in (QUERY_TILE, LARGE_QUERY_TILE)
        ),
        ("tables.cu", table_name(False, LARGE_QUERY_TILE, 2)),
        ("lists.cu", "choose_lists"),
        *(
            ("scan.cu", scan_name(width, True, plain))
            for width in widths
            for plain in (True, False)
        ),
        *(("scan.cu", scan_name(width, False, False)) for width in widths),
        *(
            ("scan.cu", scan_name(width, spread, False, fixed=False))
            for width in widths
            for spread in (True, False)
        ),
        ("merge.cu", "merge_parts"),
        *(("pairs.cu", name) for name in ("count_pairs", "end_lists", "place_pairs")),
        *(
            ("tiles.cu", tiles_name(steps, plain))
            for steps in (*HELD_STEPS, 0)
            for plain in (True, False)
        ),
        *(("rescore.cu", f"rescore<{width}>") for width in widths),
        *(("refine.cu", refine_name(half, l2)) for half in (True, False) for l2 in (True, False)),
        *(
            ("flat.cu", score_items_name(value_bytes, l2))
            for value_bytes in (4, 2, 1)
            for l2 in (True, False)
        ),
        ("flat.cu", "choose_items"),
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
