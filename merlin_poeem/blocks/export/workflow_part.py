"""Raw rows as a tower reads them: the part of a fitted workflow that makes its columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from typing import Any, TypeAlias

import numpy as np
import nvtabular as nvt
import pandas as pd
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.arrays import type_name

AnyWorkflow: TypeAlias = nvt.Workflow | str | os.PathLike[str]
"""Fitted, or the folder of one that was saved."""


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

    @property
    def user_id(self) -> str | None:
        """The raw column of user ids, where the workflow keeps its name; else None."""
        tagged = self._whole.output_schema.select_by_tag(Tags.USER_ID).column_names
        known = self._whole.input_schema.column_names
        return next((str(name) for name in tagged if name in known), None)

    def __call__(self, raw: pd.DataFrame) -> pd.DataFrame:
        """The tower's columns of ``raw`` rows, in their order, labelled from 0.

        Raises
        ------
        ValueError
            The workflow can't make a column of the tower from the columns that are there (both are
            named), or does not return a row for each.
        """
        if self.user_id in self._wanted and self.user_id not in raw.columns:
            raw = raw.assign(**{self.user_id: None})
        part = self._part_for(raw)
        if not len(raw):
            return pd.DataFrame({name: pd.Series(dtype=object) for name in self._wanted})
        inputs = part.input_schema
        given = _with_unknown_for_null(raw[inputs.column_names].reset_index(drop=True), part)
        made = part.transform(_with_a_value_in_each_column(given, inputs))
        if len(made) != len(raw) + 1:
            raise ValueError(
                f"workflow: expected a row for each of {len(raw)} rows, got fewer or more: leave "
                "out what drops or adds rows"
            )
        rows: pd.DataFrame = made[self._wanted].iloc[: len(raw)].reset_index(drop=True)
        return rows

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


def _with_unknown_for_null(rows: pd.DataFrame, workflow: nvt.Workflow) -> pd.DataFrame:
    """``rows`` with a number that is not known for each null in a column of categories.

    Where the training had integers without a null, Categorify casts what it gets to integers.
    """
    made, filled = workflow.output_schema, {}
    for name in rows:
        dtype = workflow.input_schema[name].dtype
        is_category = name in made.column_names and "cat_path" in made[name].properties
        if is_category and dtype.is_integer and rows[name].isna().any():
            unknown = np.iinfo(dtype.to_numpy).min
            filled[name] = rows[name].fillna(unknown).astype(dtype.to_numpy)
    return rows.assign(**filled)


def _with_a_value_in_each_column(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """``rows`` and one more, of values that mean nothing.

    NVTabular 23.8 fails on a column of nulls alone, such as the ids of users who are new.
    """
    columns = {name: _with_a_value(rows[name], schema[name]) for name in schema.column_names}
    return pd.DataFrame(columns)


def _with_a_value(column: pd.Series, schema: ColumnSchema) -> pd.Series:
    known = column.dropna()
    value = known.iloc[0] if len(known) else _value_of(schema)
    if not len(known) and schema.dtype.is_float | schema.dtype.is_integer and not schema.is_list:
        column = column.astype(np.float64)  # from objects, which are not compared with numbers
    return pd.concat([column, pd.Series([value], dtype=column.dtype)], ignore_index=True)


def _value_of(schema: ColumnSchema) -> Any:
    value: Any = 0 if schema.dtype.is_float or schema.dtype.is_integer else ""
    return [value] if schema.is_list else value
