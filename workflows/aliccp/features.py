"""Ali-CCP through NVTabular workflows: raw columns to the numbers that the towers read.

Two choices. A click without user id stays: "no user" is numbered as one more user, and the other
user features still describe the visitor; so it is with every missing value. The vocabularies are
those of the clicks: an item that was never clicked has no number of its own (it is NVTabular's
unknown one) and is placed by its category, shop and brand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import nvtabular as nvt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema
from nvtabular import ops

from merlin_poeem.arrays import Int64
from merlin_poeem.datasets.aliccp.parquet import write_parquet
from workflows.numbering import item_frequencies, numbered_rows, user_item_workflow

USER_LISTS = ["user_shops", "user_intentions", "user_brands", "user_categories"]
USER_VALUES = [
    "user_profile",
    "user_group",
    "user_gender",
    "user_age",
    "user_consumption_2",
    "user_is_occupied",
    "user_geography",
]
USER_COLUMNS = [*USER_VALUES, *USER_LISTS]
ITEM_COLUMNS = ["item_category", "item_shop", "item_brand"]
COLUMNS = ["user_id", *USER_COLUMNS, "item_id", *ITEM_COLUMNS]
NO_VALUE = -1
PART_BYTES = "64MB"


@dataclass(frozen=True)
class Features:
    """What the towers read, and the publisher's ids beside it.

    The columns ``user`` and ``item`` are ids numbered by the workflow; ``user_id`` and ``item_id``
    are the publisher's.
    """

    workflow: nvt.Workflow
    """Fitted; its subgraphs are ``user`` and ``item``."""
    train: Path
    """Parquet files, a row a click: all columns of ``schema``."""
    n_train: int
    """Their rows."""
    item_frequencies: Int64
    """(vocabulary of ``item``,) int64: clicks of each."""

    @property
    def schema(self) -> Schema:
        """Of the workflow's output: columns tagged user or item, with vocabulary sizes."""
        return self.workflow.output_schema

    def clicks(self) -> Dataset:
        """The rows of ``train``, to be streamed."""
        return Dataset(
            str(self.train / "*.parquet"),
            engine="parquet",
            schema=self.schema,
            part_size=PART_BYTES,
            cpu=True,
        )

    def users(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Raw user rows as the query tower reads them, ``user_id`` beside; unknown ids allowed."""
        return numbered_rows(self.workflow, "user", raw)

    def items(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Raw item rows as the item tower reads them, ``item_id`` beside; unknown ids allowed."""
        return numbered_rows(self.workflow, "item", raw)


def filled(columns: list[str]) -> nvt.WorkflowNode:
    """Whole numbers, ``NO_VALUE`` where one is missing.

    pandas makes floats of partitions with missing values, and ``Categorify`` fails where all are.
    """
    return columns >> ops.LambdaOp(_fill, dtype=np.int64)


def filled_lists(columns: list[str]) -> nvt.WorkflowNode:
    """Lists of whole numbers, one ``NO_VALUE`` where there is no other.

    Merlin fails on a partition in which all lists are empty.
    """
    return columns >> ops.LambdaOp(_fill_lists)


def _fill(column: pd.Series) -> pd.Series:
    return column.fillna(NO_VALUE).astype(np.int64)


def _fill_lists(column: pd.Series) -> pd.Series:
    nothing = np.array([NO_VALUE])
    return column.map(lambda row: row if row is not None and len(row) else nothing)


def click_workflow() -> nvt.Workflow:
    """Keeps the clicks on items that have an id; needs no fitting."""
    values = filled([name for name in COLUMNS if name not in USER_LISTS])
    # Last: operators that come after it see the rows of a partition again in which it left none.
    is_click = ops.Filter(lambda rows: (rows["click"] == 1) & (rows["item_id"] != NO_VALUE))
    return nvt.Workflow(values + filled_lists(USER_LISTS) + ["click"] >> is_click)


def make_workflow(statistics: Path) -> nvt.Workflow:
    """To be fitted on clicks with all raw columns; keeps its tables in ``statistics``."""

    def numbered(columns: nvt.WorkflowNode) -> nvt.WorkflowNode:
        return columns >> ops.Categorify(out_path=str(statistics))

    return user_item_workflow(
        numbered(filled(["user_id"])),
        numbered(filled(USER_VALUES)) + numbered(filled_lists(USER_LISTS)),
        numbered(filled(["item_id"])),
        numbered(filled(ITEM_COLUMNS)),
    )


def make_features(train: Path, work: Path) -> Features:
    """Fit the workflow on the clicks in the parquet files of ``train``; its files go to ``work``.

    Raises ``ValueError`` where there is no click.
    """
    with TemporaryDirectory(dir=work) as folder:
        clicks = Path(folder)
        rows = _dataset(train, [*COLUMNS, "click"])
        if not _write(click_workflow().transform(rows), COLUMNS, clicks):
            raise ValueError(f"{train}: expected clicks, got none")
        workflow = make_workflow(work / "statistics")
        workflow.fit(_dataset(clicks, COLUMNS))
        numbers = workflow.transform(_dataset(clicks, COLUMNS))
        n_train = _write(numbers, workflow.output_schema.column_names, work / "clicks")
    written = sorted((work / "clicks").glob("*.parquet"))
    items = pq.read_table(written, columns=["item"])["item"].to_numpy()
    return Features(
        workflow=workflow,
        train=work / "clicks",
        n_train=n_train,
        item_frequencies=item_frequencies(workflow.output_schema, items),
    )


def _dataset(folder: Path, columns: list[str]) -> Dataset:
    # With a schema, as Merlin finds no type for lists where the first are empty.
    lists = {name: {"dims": (None, (0, None))} for name in USER_LISTS}
    schema = Schema([ColumnSchema(n, dtype=np.int64, **lists.get(n, {})) for n in columns])
    files = str(folder / "*.parquet")
    return Dataset(files, engine="parquet", part_size=PART_BYTES, schema=schema, cpu=True)


def _write(rows: Dataset, columns: list[str], folder: Path) -> int:
    """Write partition after partition; returns the number of rows.

    Merlin's own ``to_parquet`` fails where a partition has no rows, or a list column no values.
    """
    one, many = pa.int64(), pa.list_(pa.int64())
    schema = pa.schema([(name, many if name in USER_LISTS else one) for name in columns])
    frames = (partition.compute() for partition in rows.to_ddf().partitions)
    tables = (
        pa.Table.from_pandas(frame[columns], schema, preserve_index=False)
        for frame in frames
        if len(frame)
    )
    return write_parquet(tables, folder)
