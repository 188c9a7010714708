"""Lines of the publisher's raw files: a head of fixed fields, then a count and that many features.

A feature is ``field \\x02 id \\x03 weight``; ``\\x01`` stands between two of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merlin_poeem.datasets.aliccp.fields import Field
from merlin_poeem.datasets.aliccp.line_blocks import Block

FEATURE = (
    "^(?P<number>[0-9_]+)\x02(?P<id>[0-9]{1,18})"
    "\x03(?P<weight>[0-9]+(?:\\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)$"
)


def split_lines(
    block: Block, lines: list[bytes], pattern: re.Pattern[bytes], names: str
) -> list[list[str]]:
    """The groups of ``pattern`` in every line, of a malformed one empty texts.

    ``names`` says in the report what was expected.
    """
    parts = []
    for i, line in enumerate(lines):
        match = pattern.fullmatch(line.rstrip(b"\r"))
        if match is None:
            shown = line[:60].decode("latin-1")
            block.refuse(i, f"expected {names}, got {shown!r}")
            parts.append([""] * pattern.groups)
        else:
            parts.append([text.decode("latin-1") for text in match.groups()])
    return parts


def feature_table(block: Block, parts: list[list[str]], fields: Sequence[Field]) -> pa.Table:
    """Columns of ``fields`` from the last two parts of every line, the count and the features."""
    lists = pc.split_pattern(pa.array([line[-1] or None for line in parts], pa.string()), "\x01")
    lines = pc.list_parent_indices(lists).to_numpy()
    texts = pc.list_flatten(lists)
    counts = np.bincount(lines, minlength=len(parts))
    for i in np.flatnonzero(block.is_right):
        if int(parts[i][-2]) != counts[i]:
            block.refuse(i, f"expected {parts[i][-2]} features, as it says, got {counts[i]}")
    parsed = pc.extract_regex(texts, FEATURE)
    is_feature = parsed.is_valid().to_numpy(zero_copy_only=False)
    for i in np.flatnonzero(~is_feature):
        text = texts[int(i)].as_py()[:60]
        block.refuse(lines[i], f"expected field \\x02 id \\x03 weight, got {text!r}")
    parsed, lines = parsed.filter(pa.array(is_feature)), lines[is_feature]
    numbers, ids, weights = parsed.flatten()
    return block.table(
        fields,
        lines,
        numbers,
        pc.cast(ids, pa.int64()).to_numpy(),
        pc.cast(weights, pa.float64()).to_numpy(),
    )
