"""Ali-CCP's rows in whichever form a folder holds them; from there to parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from merlin_poeem.atomic_files import whole_folder
from merlin_poeem.datasets.aliccp.items import distinct_items
from merlin_poeem.datasets.aliccp.parquet import read_parquet, write_parquet
from merlin_poeem.datasets.aliccp.raw import find_raw, read_raw
from merlin_poeem.datasets.aliccp.report import Report
from merlin_poeem.progress import Progress
from merlin_poeem.quantization.params import count

PARTS = ("train", "test")


def read(
    folder: str | os.PathLike[str], part: str, *, report: Report | None = None
) -> Iterator[pa.Table]:
    """:func:`read_raw` where ``folder`` holds raw files of the part, else :func:`read_parquet`.

    Parquet files are looked for in ``{part}/``. ``FileNotFoundError`` where there is neither.
    """
    folder = Path(folder)
    if any(path is not None for path in find_raw(folder, part).values()):
        return read_raw(folder, part, report=report)
    if not any((folder / part).glob("*.parquet")):
        raise FileNotFoundError(
            f"{folder}: expected sample_skeleton_{part}.csv and common_features_{part}.csv, or "
            f"{part}/*.parquet; got neither"
        )
    return read_parquet(folder / part, report=report)


def to_parquet(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    parts: Sequence[str] = PARTS,
    max_malformed: int = 0,
    progress: bool = True,
) -> Report:
    """The raw folder to parquet: a row an impression, and the catalog of items beside.

    Parameters
    ----------
    source
        Holds the publisher's files, unpacked: ``sample_skeleton_{part}.csv`` and
        ``common_features_{part}.csv`` of every part, itself or in ``{part}/`` or
        ``sample_{part}/``. Parquet in ``{part}/``, as Merlin writes it, will do too.
    folder
        Gets ``{part}/*.parquet`` and ``items/*.parquet``. It appears when all is written: a reading
        that fails leaves nothing.
    parts
        The first is the one whose items make up the catalog, unless the source has ``items/``.
    max_malformed
        Lines that may be left out. They are listed in the report.
    progress
        Whether work of more than two seconds shows a bar on stderr.

    Returns
    -------
    Report
        Rows, malformed lines and what else was met, of all parts together; ``print`` shows it.

    Raises
    ------
    TypeError
        ``parts`` is one text, ``max_malformed`` no integer.
    ValueError
        No ``parts``; ``max_malformed`` below 0; more malformed lines than that, with file and line
        number.
    FileExistsError
        ``folder`` holds something.
    FileNotFoundError
        ``source`` lacks a part. Nothing is read then.
    """
    if isinstance(parts, str):
        raise TypeError(f"parts: expected a sequence of names, got {parts!r}")
    if not parts:
        raise ValueError(f"parts: expected at least one, such as {PARTS}; got none")
    source, folder = Path(source), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected a new or empty folder, got one that holds files")
    report = Report(count("max_malformed", max_malformed))
    tables = {part: read(source, part, report=report) for part in parts}
    with whole_folder(folder) as partial:
        for part in parts:
            write_parquet(_counted(tables[part], part, progress), partial / part)
        write_parquet([_catalog(source, partial / parts[0])], partial / "items")
    return report


def _counted(tables: Iterator[pa.Table], part: str, progress: bool) -> Iterator[pa.Table]:
    with Progress(f"read {part}", None, "rows", shown=progress) as bar:
        for table in tables:
            yield table
            bar.update(table.num_rows)


def _catalog(source: Path, rows: Path) -> pa.Table:
    if any((source / "items").glob("*.parquet")):
        return pq.read_table(source / "items")
    return pa.Table.from_pandas(distinct_items(read_parquet(rows)))
