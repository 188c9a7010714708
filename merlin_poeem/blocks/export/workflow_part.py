"""Raw rows as a tower reads them: the part of a fitted workflow that makes its columns."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from typing import Any, TypeAlias

import numpy as np
import nvtabular as nvt
import pandas as pd
from merlin.dtypes.base import ElementType
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.arrays import type_name

AnyWorkflow: TypeAlias = nvt.Workflow | str | os.PathLike[str]
"""Fitted, or the folder of one that was saved."""

FEWEST = 20
"""Ids that tell something: fewer may well all be new."""
MOST = 10_000
"""Rows that are looked at."""

logger = logging.getLogger(__name__)


class WorkflowPart:
    """What a fitted ``workflow`` makes of rows of one side, users or items.

    A workflow was fitted on pairs, with the columns of both sides; rows of one side lack the
    other's. What depends on columns that are not there is left out, as long as all of ``columns``,
    a tower's, are made. A missing column of user ids stands for users who are not known.
    """

    def __init__(self, workflow: AnyWorkflow, columns: Sequence[str]) -> None:
        """Raises ``TypeError`` or ``ValueError`` where ``workflow`` is no fitted one."""
        if isinstance(workflow, str | os.PathLike):
            workflow = nvt.Workflow.load(os.fspath(workflow))
        if not isinstance(workflow, nvt.Workflow):
            raise TypeError(
                f"workflow: expected a fitted nvtabular.Workflow or the folder of a saved one, got "
                f"{type_name(workflow)}"
            )
        if workflow.output_schema is None:
            raise ValueError("workflow: expected a fitted one, got one without schemas: fit it")
        self._whole = workflow
        self._wanted = list(columns)
        self._parts: dict[frozenset[str], nvt.Workflow] = {}
        self._told = False

    @property
    def user_id(self) -> str | None:
        """The raw column of user ids, where the workflow keeps its name; else None."""
        return self._raw_column(Tags.USER_ID)

    @property
    def no_user(self) -> int | None:
        """The raw id that stands for users who are not known; None is a null."""
        schema = self._whole.input_schema[self.user_id]
        if not _is_integer(schema):
            return None
        # NVTabular 23.8 has no integer for a null. The farthest that floats hold exactly, too, is
        # none that a user has.
        limits = np.iinfo(schema.dtype.to_numpy)
        return int(limits.min or limits.max // 2 + 1)

    @property
    def workflow(self) -> nvt.Workflow:
        """All of it."""
        return self._whole

    def makes(self, column: str) -> bool:
        """Whether ``column`` is one of those that it was made for."""
        return column in self._wanted

    def _raw_column(self, tag: Tags) -> str | None:
        tagged = self._whole.output_schema.select_by_tag(tag).column_names
        known = self._whole.input_schema.column_names
        return next((str(name) for name in tagged if name in known), None)

    def __call__(self, raw: pd.DataFrame) -> pd.DataFrame:
        """The tower's columns of ``raw`` rows, in their order, labelled from 0.

        Raises
        ------
        ValueError
            The workflow can't make a column of the tower from the columns that are there (both are
            named), fails on the rows, or does not return a row for each.
        """
        raw = self._with_user_ids(raw)
        part = self._part_for(raw)
        if not len(raw):
            return pd.DataFrame({name: pd.Series(dtype=object) for name in self._wanted})
        # Not those of the part, which has columns among them that it makes, as Rename does.
        inputs = self._whole.input_schema.select_by_name(
            [name for name in self._whole.input_schema.column_names if name in raw.columns]
        )
        given = raw[inputs.column_names].reset_index(drop=True)
        try:
            made = part.transform(_with_a_value_in_each_column(given, inputs))
        except Exception as error:  # NVTabular's own are of any type, and name no row
            raise ValueError(
                f"workflow: expected it to make {self._wanted} of the raw columns "
                f"{inputs.column_names}, got {type(error).__name__}: {error}. Operators that look "
                "at other columns, such as JoinExternal and TargetEncoding, need these in the rows "
                "too, filled with anything; or give rows that the workflow has made"
            ) from error
        if len(made) != len(raw) + 1:
            raise ValueError(
                f"workflow: expected a row for each of {len(raw)} rows, got fewer or more: leave "
                "out what drops or adds rows"
            )
        rows: pd.DataFrame = made[self._wanted].iloc[: len(raw)].reset_index(drop=True)
        for tag in (Tags.USER_ID, Tags.ITEM_ID):
            self._tell_of_unknown(self._raw_column(tag), given, rows)
        return rows

    def _with_user_ids(self, raw: pd.DataFrame) -> pd.DataFrame:
        """``raw`` with ids for users who have none, where the tower reads ids."""
        name = self.user_id
        if name is None or name not in self._wanted:
            return raw
        ids = raw[name] if name in raw.columns else pd.Series(None, raw.index, dtype=object)
        if self.no_user is not None and ids.isna().any():
            ids = ids.astype(object).fillna(self.no_user)
        return raw.assign(**{name: ids})

    def _tell_of_unknown(self, name: str | None, given: pd.DataFrame, rows: pd.DataFrame) -> None:
        """Log, once, where 20 ids or more in the column ``name`` all became the same number."""
        if self._told or name not in self._wanted or name not in given:
            return
        ids = given[name].head(MOST).dropna().unique()
        if len(ids) < FEWEST or rows[name].head(MOST).nunique() > 1:
            return
        self._told = True
        logger.warning(
            "column %r: expected ids that the workflow was fitted on, got none of them in %d rows, "
            "but others, such as %s: all are taken for the same unknown one. Are they from after "
            "Categorify?",
            name,
            min(len(given), MOST),
            list(ids[:3]),
        )

    def _part_for(self, raw: pd.DataFrame) -> nvt.Workflow:
        """The workflow without what ``raw`` has no columns for."""
        missing = frozenset(self._whole.input_schema.column_names) - set(raw.columns)
        if missing not in self._parts:
            self._parts[missing] = self._without(missing)
        if self._lacking(self._parts[missing]):
            needed = [name for name in sorted(missing) if self._lacking(self._without({name}))]
            raise ValueError(
                f"dataset: expected the raw columns {needed}, from which the workflow makes "
                f"{self._lacking(self._parts[missing])} for the tower; got "
                f"{sorted(map(str, raw.columns))}"
            )
        return self._parts[missing]

    def _without(self, inputs: AbstractSet[str]) -> nvt.Workflow:
        part = deepcopy(self._whole)  # as it takes inputs away from the workflow itself
        if inputs:
            part.remove_inputs(sorted(inputs))
        return part

    def _lacking(self, part: nvt.Workflow) -> list[str]:
        """Which of the tower's columns ``part`` does not make."""
        return sorted(set(self._wanted) - set(part.output_schema.column_names))


def _with_a_value_in_each_column(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """``rows`` and one more, of values that mean nothing.

    NVTabular 23.8 fails on a column of nulls alone, such as the ids of users who are new.
    """
    columns = {name: _with_a_value(rows[name], schema[name]) for name in schema.column_names}
    return pd.DataFrame(columns)


def _with_a_value(column: pd.Series, schema: ColumnSchema) -> pd.Series:
    known = column.dropna()
    value = known.iloc[0] if len(known) else _value_of(schema)
    if not len(known):
        is_number = _is_number(schema) and not schema.is_list
        # Objects are not compared with numbers, and whatever else it is may have no room for texts.
        column = pd.Series(None, column.index, dtype=np.float64 if is_number else object)
    return pd.concat([column, pd.Series([value], dtype=column.dtype)], ignore_index=True)


def _value_of(schema: ColumnSchema) -> Any:
    value: Any = 0 if _is_number(schema) else ""
    return [value] if schema.is_list else value


def _is_number(schema: ColumnSchema) -> bool:
    return bool(schema.dtype.is_float) or _is_integer(schema)


def _is_integer(schema: ColumnSchema) -> bool:
    """Whether values are signed or unsigned integers; Merlin's own calls only the former so."""
    return schema.dtype.element_type in (ElementType.Int, ElementType.UInt)
