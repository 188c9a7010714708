"""The raw format's common features: what many rows say of their user, written once under a key."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from merlin_poeem.datasets.aliccp.fields import USER_FIELDS, USER_SCHEMA
from merlin_poeem.datasets.aliccp.line_blocks import Block, read_blocks
from merlin_poeem.datasets.aliccp.raw_lines import feature_table, split_lines
from merlin_poeem.datasets.aliccp.report import Report

LINE = re.compile(rb"(\w+),(\d{1,9}),(.*)")
NAMES = "common feature key, count, features"


class CommonFeatures:
    """The user columns of every key: on disk, memory-mapped; only the keys are in memory."""

    def __init__(self, file: pa.ipc.RecordBatchFileReader, keys: pd.Index) -> None:
        self._file, self._keys = file, keys
        sizes = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @classmethod
    def read(cls, path: Path, spill: Path, report: Report, block_bytes: int) -> CommonFeatures:
        """Read the file once, its columns into a file of folder ``spill``."""
        columns = spill / "common.arrow"
        keys: list[str] = []
        line_of: dict[str, int] = {}
        with pa.ipc.new_file(str(columns), USER_SCHEMA) as writer:
            for first, lines in read_blocks(path, block_bytes):
                block = Block(report, path, first, len(lines))
                parts = split_lines(block, lines, LINE, NAMES)
                _refuse_known(block, [line[0] for line in parts], line_of)
                table = feature_table(block, parts, USER_FIELDS)
                keys += [parts[i][0] for i in np.flatnonzero(block.is_right)]
                writer.write_table(table.cast(USER_SCHEMA).combine_chunks())
        del line_of
        return cls(pa.ipc.open_file(pa.memory_map(str(columns))), pd.Index(keys, dtype=object))

    def look_up(self, keys: list[str], report: Report) -> pa.Table:
        """User columns, a row a key; null where the key is unknown, which is counted."""
        positions, row_of = np.unique(self._keys.get_indexer(keys), return_inverse=True)
        is_unknown = positions[:1] < 0
        known = positions[len(positions[:1][is_unknown]) :]
        batch_of = np.searchsorted(self._starts, known, side="right") - 1
        parts = [_nothing(USER_SCHEMA)] if is_unknown.any() else []
        for batch in np.unique(batch_of):
            local = known[batch_of == batch] - self._starts[batch]
            parts.append(self._file.get_batch(int(batch)).take(pa.array(local)))
        if is_unknown.any():
            report.n_without_common += int(np.sum(row_of == 0))
        table = pa.Table.from_batches(parts, USER_SCHEMA).combine_chunks()
        return table.take(pa.array(row_of.ravel()))


def _refuse_known(block: Block, keys: list[str], line_of: dict[str, int]) -> None:
    """Note the lines of new keys in ``line_of``, refuse lines of known ones."""
    for i, key in enumerate(keys):
        if key in line_of:
            block.refuse(i, f"key {key}: expected once, got it in line {line_of[key]}")
        elif block.is_right[i]:
            line_of[key] = block.first + i


def _nothing(schema: pa.Schema) -> pa.RecordBatch:
    """One row of nulls and empty lists."""
    columns = [pa.array([[] if pa.types.is_list(one.type) else None], one.type) for one in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
