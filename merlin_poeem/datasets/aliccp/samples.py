"""Re-encoded rows of Ali-CCP as other projects publish them, small samples of the real set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from merlin_poeem.datasets.aliccp.fields import FIELDS, HEAD, SCHEMA
from merlin_poeem.datasets.aliccp.line_blocks import BLOCK_BYTES, Block, read_blocks
from merlin_poeem.datasets.aliccp.report import Report

# Columns of the re-encoded rows of PaddleRec's AITM, which come with this first line and without.
AITM = "click,purchase,101,121,122,124,125,126,127,128,129,205,206,207,216,508,509,702,853,301"
MULTI_HOT_LINE = re.compile(r"(\d{1,18}),([01]),([01])((?:,\d+(?:_14)?:\d{1,18})*)")
NUMBERS = {f.number for f in FIELDS}


class Sample(NamedTuple):
    """What a line holds."""

    head: tuple[int, int, int]
    """(sample id, click, conversion)"""
    values: list[tuple[str, int, float]]
    """(field, id, weight)"""


def read_samples(
    path: str | os.PathLike[str],
    *,
    report: Report | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[pa.Table]:
    """Re-encoded rows as other projects publish them, as tables of ``SCHEMA``.

    Three formats are told apart by the first line: Torch-RecHub's csv (a column a field, and its
    weight in ``D`` + field), the csv of PaddleRec's AITM (with or without the line of names) and
    the multi-hot text of PaddleRec's ESMM (``field:id``). Id 0 stands for a missing value in all of
    them, and so is none here. A csv row's ``sample_id`` is its line number.

    Raises ``FileNotFoundError``, and ``ValueError`` on an unknown format or on more malformed lines
    than the report allows.
    """
    report = Report() if report is None else report
    path = Path(path)
    parse = _multi_hot_line
    for first, raw_lines in read_blocks(path, block_bytes):
        lines = [line.rstrip(b"\r").decode("latin-1") for line in raw_lines]
        if first == 1:
            names = _csv_names(path, lines[0])
            parse = _multi_hot_line if names is None else partial(_csv_line, names)
            if lines[0].startswith("click,"):
                first, lines = 2, lines[1:]
        block = Block(report, path, first, len(lines))
        table = _table(block, [parse(block, i, line) for i, line in enumerate(lines)])
        report.add(table)
        yield table


def _csv_names(path: Path, line: str) -> list[str] | None:
    """Column names of a csv from its first line; None where it is multi-hot text."""
    if line.startswith("click,purchase,"):
        names = line.split(",")
        unknown = [n for n in names[2:] if n not in NUMBERS and n.removeprefix("D") == n]
        if "205" not in names or unknown:
            raise ValueError(f"{path}: expected the fields of Ali-CCP, 205 among them, got {names}")
        return names
    if ":" in line:
        return None
    if line.count(",") == AITM.count(","):
        return AITM.split(",")
    raise ValueError(
        f"{path}: expected re-encoded rows of Torch-RecHub, AITM or ESMM, got {line[:60]!r}"
    )


def _csv_line(names: list[str], block: Block, i: int, line: str) -> Sample | None:
    """Line ``i`` of the block; None where it is malformed."""
    texts = line.split(",")
    if len(texts) != len(names):
        block.refuse(i, f"expected {len(names)} fields, got {len(texts)}")
        return None
    columns = dict(zip(names, texts, strict=True))
    ids = {name: text for name, text in columns.items() if name in NUMBERS}
    wrong = [text for text in ids.values() if not re.fullmatch(r"\d{1,18}", text, re.ASCII)]
    wrong += [text for text in texts[:2] if text not in ("0", "1")]
    weights = {name: text for name, text in columns.items() if name.startswith("D")}
    wrong += [text for text in weights.values() if not re.fullmatch(r"[\d.]+(e-?\d+)?", text)]
    if wrong:
        block.refuse(i, f"expected numbers, clicks and purchases 0 or 1, got {wrong[0]!r}")
        return None
    values = [
        (name, int(text), float(weights.get(f"D{name}", 1)))
        for name, text in ids.items()
        if int(text)
    ]
    return Sample((block.first + i, int(texts[0]), int(texts[1])), values)


def _multi_hot_line(block: Block, i: int, line: str) -> Sample | None:
    """Line ``i`` of the block; None where it is malformed."""
    match = MULTI_HOT_LINE.fullmatch(line)
    if match is None:
        expected = "sample id, click, conversion, field:id ..."
        block.refuse(i, f"expected {expected}, got {line[:60]!r}")
        return None
    pairs = (text.split(":") for text in match[4].split(",")[1:])
    values = [(number, int(value), 1.0) for number, value in pairs if int(value)]
    return Sample((int(match[1]), int(match[2]), int(match[3])), values)


def _table(block: Block, samples: list[Sample | None]) -> pa.Table:
    """The right lines of a block as rows."""
    values = [
        (i, *value) for i, one in enumerate(samples) if one is not None for value in one.values
    ]
    lines, numbers, ids, weights = zip(*values, strict=True) if values else [()] * 4
    table = block.table(
        FIELDS,
        np.array(lines, np.int64),
        pa.array(numbers, pa.string()),
        np.array(ids, np.int64),
        np.array(weights, np.float64),
    )
    heads = [samples[i].head for i in np.flatnonzero(block.is_right)]
    for i, (name, dtype) in enumerate(HEAD):
        table = table.append_column(name, pa.array([head[i] for head in heads], dtype))
    return table.select(SCHEMA.names).cast(SCHEMA)
