"""Ali-CCP's rows in whichever form a folder holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from workflows.aliccp.items import distinct_items
from workflows.aliccp.parquet import read_parquet, write_parquet
from workflows.aliccp.raw import find_raw, read_raw
from workflows.aliccp.report import Report


def read(folder: Path, part: str, *, report: Report | None = None) -> Iterator[pa.Table]:
    """:func:`read_raw` where ``folder`` holds raw files of the part, else :func:`read_parquet`.

    Parquet files are looked for in ``{part}/``. ``FileNotFoundError`` where there is neither.
    """
    if any(path is not None for path in find_raw(Path(folder), part).values()):
        return read_raw(folder, part, report=report)
    if not any((Path(folder) / part).glob("*.parquet")):
        raise FileNotFoundError(
            f"{folder}: expected sample_skeleton_{part}.csv and common_features_{part}.csv, or "
            f"{part}/*.parquet; got neither"
        )
    return read_parquet(Path(folder) / part, report=report)


def import_rows(source: Path, folder: Path, report: Report) -> None:
    """Any form that :func:`read` takes, as parquet in ``train/``, ``test/`` and ``items/``.

    ``items/`` is copied where the source has it, else made of the items in the training rows.
    """
    for part in ("train", "test"):
        tables = tqdm(read(source, part, report=report), desc=f"Reading {part}", unit=" tables")
        write_parquet(tables, folder / part)
    if any((source / "items").glob("*.parquet")):
        items = pq.read_table(source / "items")
    else:
        items = pa.Table.from_pandas(distinct_items(read_parquet(folder / "train")))
    write_parquet([items], folder / "items")
