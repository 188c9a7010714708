"""Text files in blocks of lines: the right lines of a block become the rows of a table.

Memory is bounded by the block that is being read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64
from merlin_poeem.datasets.aliccp.fields import Field, list_column
from merlin_poeem.datasets.aliccp.report import Report

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 20


def read_blocks(path: Path, block_bytes: int) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first, whole lines) of a file, about ``block_bytes`` at once.

    ``ValueError`` on a line of more than ``MAX_LINE_BYTES``.
    """
    number, rest = 1, b""
    with path.open("rb") as file:
        while chunk := file.read(block_bytes):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError(
                    f"{path}, line {number + len(lines)}: expected up to {MAX_LINE_BYTES} bytes, "
                    "got a longer line"
                )
            if lines:
                yield number, lines
            number += len(lines)
    if rest:
        yield number, [rest]


class Block:
    """Lines that follow each other in a file, and which of them are right."""

    def __init__(self, report: Report, path: Path, first: int, n_lines: int) -> None:
        self.first = first
        """The number of the first line in the file, from 1."""
        self.is_right = np.ones(n_lines, bool)
        self._report, self._path = report, path

    def refuse(self, line: int, reason: str) -> None:
        """A malformed line of the block, reported once."""
        if self.is_right[line]:
            self.is_right[line] = False
            self._report.refuse(self._path, self.first + line, reason)

    def table(
        self,
        fields: Sequence[Field],
        lines: Int64,
        numbers: pa.Array,
        ids: Int64,
        weights: NDArray[np.float64],
    ) -> pa.Table:
        """Columns of ``fields``, a row a right line.

        ``lines, numbers, ids, weights`` say of every value its line of the block, field, id and
        weight, in the order of the lines.
        """
        number_of = pc.index_in(numbers, value_set=pa.array([f.number for f in fields]))
        kinds = pc.fill_null(number_of, -1).to_numpy(zero_copy_only=False)
        for kind, one in enumerate(fields):
            if not one.is_list:
                self._refuse_repeated(one, lines[kinds == kind])
        right = self.is_right[lines]
        unknown = pc.value_counts(numbers.filter(pa.array(right & (kinds < 0))))
        self._report.unknown_fields.update({n["values"]: n["counts"] for n in unknown.to_pylist()})
        row_of_line = np.cumsum(self.is_right) - 1
        columns: dict[str, pa.Array] = {}
        for kind, one in enumerate(fields):
            mine = right & (kinds == kind)
            rows = row_of_line[lines[mine]]
            columns |= _columns(one, int(self.is_right.sum()), rows, ids[mine], weights[mine])
        return pa.table(columns)

    def _refuse_repeated(self, one: Field, lines: Int64) -> None:
        counts = np.bincount(lines, minlength=len(self.is_right))
        for line in np.flatnonzero(counts > 1):
            self.refuse(line, f"field {one.number}: expected one value, got {counts[line]}")


def _columns(
    one: Field, n_rows: int, rows: Int64, ids: Int64, weights: NDArray[np.float64]
) -> dict[str, pa.Array]:
    """The columns of one field from its values, in the order of ``rows``."""
    if not one.is_list:
        values, is_missing = np.zeros(n_rows, np.int64), np.ones(n_rows, bool)
        values[rows], is_missing[rows] = ids, False
        return {one.name: pa.array(values, mask=is_missing)}
    columns = {one.name: list_column(rows, ids, n_rows)}
    if one.is_weighted:
        columns[one.weights] = list_column(rows, weights.astype(np.float32), n_rows)
    return columns
