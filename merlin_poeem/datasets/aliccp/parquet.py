"""Ali-CCP's rows in parquet files, Merlin's or our own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from merlin_poeem.datasets.aliccp.fields import FIELDS, SCHEMA
from merlin_poeem.datasets.aliccp.report import Report

TABLE_ROWS = 16_384
FILE_ROWS = 4_000_000


def read_parquet(
    folder: str | os.PathLike[str], *, report: Report | None = None, rows: int = TABLE_ROWS
) -> Iterator[pa.Table]:
    """Parquet files, Merlin's or our own, as tables of ``SCHEMA`` of up to ``rows`` rows.

    Merlin writes one value a field, as whole numbers or as floats with NaN: where Ali-CCP repeats a
    field it becomes a list of that value; weights are null. Rows without ``sample_id`` are numbered
    from 1.

    Raises
    ------
    FileNotFoundError
        ``folder`` holds no parquet file.
    ValueError
        Columns missing (named), or values that are no whole numbers.
    """
    report = Report() if report is None else report
    paths = sorted(Path(folder).glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder}: expected parquet files, got none")
    for path in paths:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=rows):
                table = _conform(path, pa.Table.from_batches([batch]), 1 + report.n_rows)
                report.add(table)
                yield table


def write_parquet(
    tables: Iterable[pa.Table], folder: str | os.PathLike[str], *, rows: int = FILE_ROWS
) -> int:
    """Write tables as ``part_00000.parquet`` and so on, about ``rows`` rows each; returns the rows.

    Raises ``FileExistsError`` where the folder holds parquet files.
    """
    folder = Path(folder)
    if any(folder.glob("*.parquet")):
        raise FileExistsError(f"{folder}: expected no parquet files, got some")
    folder.mkdir(parents=True, exist_ok=True)
    n_written, n_in_file, n_files, writer = 0, 0, 0, None
    try:
        for table in tables:
            if writer is None:
                path = folder / f"part_{n_files:05d}.parquet"
                writer, n_files, n_in_file = pq.ParquetWriter(path, table.schema), n_files + 1, 0
            writer.write_table(table)
            n_written, n_in_file = n_written + table.num_rows, n_in_file + table.num_rows
            if n_in_file >= rows:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    return n_written


def _check_columns(path: Path, names: list[str]) -> None:
    expected = ["click", "conversion", *(f.name for f in FIELDS)]
    missing = [name for name in expected if name not in names]
    if missing:
        raise ValueError(f"{path}: expected the columns {missing}, got {names}")


def _conform(path: Path, table: pa.Table, number: int) -> pa.Table:
    """A table of parquet columns in ``SCHEMA``."""
    columns = []
    for one in SCHEMA:
        if one.name in table.column_names:
            columns.append(_conform_column(path, table[one.name].combine_chunks(), one))
        elif one.name == "sample_id":
            columns.append(pa.array(np.arange(number, number + table.num_rows)))
        else:
            columns.append(pa.nulls(table.num_rows, one.type))
    return pa.table(columns, schema=SCHEMA)


def _conform_column(path: Path, column: pa.Array, one: pa.Field) -> pa.Array:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        if not pa.types.is_list(one.type) or pa.types.is_list(column.type):
            return column.cast(one.type)
        present = column.is_valid().to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(present)]).astype(np.int32)
        values = column.drop_null().cast(one.type.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets), values)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: {one.name}: expected whole numbers ({error})") from error
