"""Raw ids at a server without NVTabular: the part of a workflow that makes the tower's columns.

What the server will do is compared with the workflow on made-up rows before it is kept: what is
served is what was trained, or nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from merlin.dtypes.base import ElementType
from merlin.schema import ColumnSchema
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow, WorkflowPart
from merlin_poeem.blocks.export.workflow_steps import UNKNOWN_TEXT, WorkflowWay, way_to
from merlin_poeem.search.ragged import offsets_of
from merlin_poeem.serving.features import TowerFeature
from merlin_poeem.serving.input_spec import TEXT, InputSpec
from merlin_poeem.serving.raw_columns import Column, RawColumns, Way, input_of, n_rows_of
from merlin_poeem.serving.tower_facts import TowerFacts

LONGEST = 4
"""List that is compared."""
TOLERANCE = 1e-5
"""Difference that floats may have, relative to them where they are above 1."""
NUMBERS = (0.0, 0.5, 1.0, -1.0, 3.0, 1e3, -1e6)
"""That any column of numbers is tried with."""


def save_served_columns(
    workflow: AnyWorkflow, folder: str | os.PathLike[str], *, as_made: Sequence[str] = ()
) -> RawColumns:
    """Let requests to the served tower in ``folder`` hold raw columns.

    Parameters
    ----------
    workflow
        The fitted NVTabular workflow that made the columns that the model was trained on, or the
        folder of a saved one.
    folder
        Of a tower, as ``save_served_tower`` wrote it; the columns are described beside it.
    as_made
        Columns of the tower that requests hold as the workflow makes them, for those that it makes
        in a way that a server does not know.

    Returns
    -------
    RawColumns
        As the server opens it; its ``inputs`` are what requests hold.

    Raises
    ------
    FileExistsError
        The folder has raw columns.
    TypeError, ValueError
        What is no fitted workflow; an operator without a step (named, with the column), a column of
        ``as_made`` that is none of the tower's, raw columns that are neither numbers nor texts; and
        a row where the steps make another feature than the workflow.
    """
    folder = Path(folder)
    features = TowerFacts.load(folder).features
    unknown = sorted(set(as_made) - {feature.name for feature in features})
    if unknown:
        names = [feature.name for feature in features]
        raise ValueError(f"as_made: expected columns of the tower, {names}, got {unknown}")
    made = [feature for feature in features if feature.name not in as_made]
    part = WorkflowPart(workflow, [feature.name for feature in made])
    ways = {feature.name: way_to(part.workflow, feature.name) for feature in made}
    columns = _with_users_who_are_not_known(part, _described(part, features, ways))
    _compare(part, columns, ways)
    columns.save(folder)
    return RawColumns.load(folder)


def _described(
    part: WorkflowPart, features: Sequence[TowerFeature], found: Mapping[str, WorkflowWay]
) -> RawColumns:
    """Without ``found`` a feature is sent as the workflow makes it."""
    inputs: dict[str, InputSpec] = {}
    ways = []
    for feature in features:
        if feature.name in found:
            way = found[feature.name]
            ways.append(Way(feature, way.source, way.steps))
            spec = _raw_input(part.workflow.input_schema[way.source], feature)
        else:
            ways.append(Way(feature, feature.name))
            spec = input_of(feature)
        if inputs.setdefault(spec.name, spec) != spec:
            raise ValueError(
                f"column {spec.name!r}: expected one kind of values for all features that are made "
                f"of it, got {inputs[spec.name]} and {spec}"
            )
    return RawColumns(list(inputs.values()), ways)


def _raw_input(schema: ColumnSchema, feature: TowerFeature) -> InputSpec:
    kind = schema.dtype.element_type
    if kind in (ElementType.Int, ElementType.UInt):
        dtype = "uint64" if np.dtype(schema.dtype.to_numpy) == np.uint64 else "int64"
    elif kind is ElementType.Float:
        dtype = np.dtype(schema.dtype.to_numpy).name
    elif kind in (ElementType.String, ElementType.Object, ElementType.Unknown):
        dtype = TEXT
    else:
        raise ValueError(
            f"column {schema.name!r}: expected raw numbers or texts, got {schema.dtype.name}; name "
            f"{feature.name!r} in as_made, and send it as the workflow makes it"
        )
    return InputSpec(schema.name, dtype, feature.length)


def _with_users_who_are_not_known(part: WorkflowPart, columns: RawColumns) -> RawColumns:
    """``columns``, where a request may lack the ids of its users if it holds anything else."""
    name = part.user_id
    if len(columns.inputs) == 1 or name is None or not part.makes(name):
        return columns
    inputs = [replace(spec, optional=spec.name == name) for spec in columns.inputs]
    return RawColumns(inputs, columns.ways, {name: part.no_user})


def _compare(part: WorkflowPart, columns: RawColumns, ways: Mapping[str, WorkflowWay]) -> None:
    """``ValueError`` with the first value that the steps make otherwise than the workflow."""
    probes = {spec.name: _probes(part, spec, ways.values()) for spec in columns.inputs}
    n_rows = LONGEST * max(map(len, probes.values()))
    given = {spec.name: _column(spec, probes[spec.name], n_rows) for spec in columns.inputs}
    for absent in (None, *columns.absent):
        sent = {name: column for name, column in given.items() if name != absent}
        raw = {
            spec.name: _as_raw(part, spec, sent[spec.name])
            for spec in columns.inputs
            if spec.name in sent and any(way.source == spec.name for way in ways.values())
        }
        truth = part(pd.DataFrame(raw, index=range(n_rows)))
        for way, values, offsets in columns.made(sent):
            if way.feature.name in ways:
                name = way.feature.name
                made = values.tolist() if offsets is None else _rows(values, offsets)
                _compare_column(way, made, truth[name].tolist(), raw.get(way.source))


def _compare_column(way: Way, made: list[Any], truth: list[Any], raw: pd.Series | None) -> None:
    for row, (ours, theirs) in enumerate(zip(made, truth, strict=True)):
        if not _same(ours, theirs):
            sent = "which is not sent" if raw is None else repr(raw.iloc[row])
            raise ValueError(
                f"column {way.feature.name!r}: expected {theirs!r} of {way.source} {sent}, as the "
                f"workflow makes it, got {ours!r} by the steps of a server: name it in as_made, "
                "and send it as the workflow makes it"
            )


def _rows(values: NDArray[Any], offsets: Int64) -> list[Any]:
    return np.split(values, offsets[1:-1])


def _same(ours: Any, theirs: Any) -> bool:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return False
    close = np.isclose(
        ours.astype(np.float64), theirs.astype(np.float64), TOLERANCE, TOLERANCE, equal_nan=True
    )
    return bool(close.all())


def _as_raw(part: WorkflowPart, spec: InputSpec, column: Column) -> pd.Series:
    """A column of a request as the workflow takes it: nulls are nulls, dtypes those it knows."""
    values, offsets = column
    if spec.dtype == TEXT:
        values = np.array([text or None for text in values.reshape(-1).tolist()], object)
    elif spec.name in part.workflow.input_schema.column_names:
        values = values.astype(part.workflow.input_schema[spec.name].dtype.to_numpy)
    if not spec.length and offsets is None:
        return pd.Series(values)
    series = pd.Series([None] * n_rows_of(column), dtype=object)
    series[:] = list(values) if offsets is None else _rows(values, offsets)
    return series


def _column(spec: InputSpec, probes: list[Any], n_rows: int) -> Column:
    """``n_rows`` rows of a request with all ``probes`` in them, and lists of several lengths."""
    dtype = object if spec.dtype == TEXT else spec.dtype
    if spec.length is None:
        lengths = np.arange(1, n_rows + 1) % (LONGEST + 1)
        offsets = offsets_of(lengths.astype(np.int64))
        return _repeated(probes, int(offsets[-1]), dtype), offsets
    values = _repeated(probes, n_rows * (spec.length or 1), dtype)
    return (values.reshape(n_rows, spec.length) if spec.length else values), None


def _repeated(probes: list[Any], n: int, dtype: Any) -> NDArray[Any]:
    values = np.empty(n, dtype)
    values[:] = [probes[i % len(probes)] for i in range(n)]
    return values


def _probes(part: WorkflowPart, spec: InputSpec, ways: Iterable[WorkflowWay]) -> list[Any]:
    """Values that a raw column may have: known, unknown and, where it knows them, missing ones."""
    samples = [sample for way in ways if way.source == spec.name for sample in way.samples]
    if spec.dtype == TEXT:
        return ["", UNKNOWN_TEXT, *samples]
    samples = [*NUMBERS, *samples]
    if np.dtype(spec.dtype).kind == "f":
        return [np.nan, *samples]
    limits = np.iinfo(part.workflow.input_schema[spec.name].dtype.to_numpy)
    return [int(number) for number in samples if limits.min <= number <= limits.max]
