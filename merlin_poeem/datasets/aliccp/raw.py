"""The publisher's raw files as tables of one schema, block by block.

Of the common features only the keys stay in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from merlin_poeem.datasets.aliccp.common_features import CommonFeatures
from merlin_poeem.datasets.aliccp.fields import HEAD, SAMPLE_FIELDS, SCHEMA
from merlin_poeem.datasets.aliccp.line_blocks import BLOCK_BYTES, Block, read_blocks
from merlin_poeem.datasets.aliccp.raw_lines import feature_table, split_lines
from merlin_poeem.datasets.aliccp.report import Report

LINE = re.compile(rb"(\d{1,18}),([01]),([01]),(\w+),(\d{1,9}),(.*)")
NAMES = "sample id, click, conversion, common feature key, count, features"


def read_raw(
    folder: str | os.PathLike[str],
    part: str,
    *,
    report: Report | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[pa.Table]:
    """The publisher's raw files of one part, as tables of ``SCHEMA`` in the order of its lines.

    Parameters
    ----------
    folder
        Holds ``sample_skeleton_{part}.csv`` and ``common_features_{part}.csv``, itself or in
        ``{part}/`` or ``sample_{part}/``.
    part
        ``train`` or ``test``.
    report
        Filled as the tables come; None allows no malformed line.
    block_bytes
        Text read at once; a table holds the rows of one block.

    Raises
    ------
    FileNotFoundError
        A file is missing; all missing ones are named.
    ValueError
        More malformed lines than the report allows, with file and line number. Malformed is a
        line with other fields, a feature that is not ``field \\x02 id \\x03 weight``, another
        number of features than the line says, or two values of a field that has one.
    """
    skeleton, common = _paths(Path(folder), part)
    return _read(skeleton, common, Report() if report is None else report, block_bytes)


def _read(
    skeleton: Path, common_path: Path, report: Report, block_bytes: int
) -> Iterator[pa.Table]:
    with TemporaryDirectory() as spill:
        common = CommonFeatures.read(common_path, Path(spill), report, block_bytes)
        for first, lines in read_blocks(skeleton, block_bytes):
            block = Block(report, skeleton, first, len(lines))
            table = _table(block, lines, common, report)
            report.add(table)
            yield table


def find_raw(folder: Path, part: str) -> dict[str, Path | None]:
    """Where the raw files of a part are, by their names; None where one is missing."""
    places = (folder, folder / part, folder / f"sample_{part}")
    return {
        name: next((place / name for place in places if (place / name).is_file()), None)
        for name in (f"sample_skeleton_{part}.csv", f"common_features_{part}.csv")
    }


def _paths(folder: Path, part: str) -> list[Path]:
    found = find_raw(folder, part)
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{folder}: expected the files {', '.join(missing)}, got none")
    return [path for path in found.values() if path is not None]


def _table(block: Block, lines: list[bytes], common: CommonFeatures, report: Report) -> pa.Table:
    """The rows of a block of the skeleton, joined with their common features."""
    parts = split_lines(block, lines, LINE, NAMES)
    columns = feature_table(block, parts, SAMPLE_FIELDS)
    parts = [parts[i] for i in np.flatnonzero(block.is_right)]
    table = common.look_up([line[3] for line in parts], report)
    for i, (name, dtype) in enumerate(HEAD):
        table = table.append_column(name, pa.array([int(line[i]) for line in parts], dtype))
    for name in columns.column_names:
        table = table.append_column(name, columns[name])
    return table.select(SCHEMA.names).cast(SCHEMA)
