"""A fitted workflow's way from a raw column to a feature, as steps that need no NVTabular."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
from merlin.dag import ColumnSelector
from merlin.dag.ops.concat_columns import ConcatColumns
from merlin.dag.ops.selection import SelectionOp
from merlin.dag.ops.subgraph import Subgraph
from merlin.dag.ops.subset_columns import SubsetColumns
from merlin.dag.ops.subtraction import SubtractionOp
from merlin.dag.ops.udf import UDF
from nvtabular import ops

from merlin_poeem.serving.steps import Bucketize, Clip, Fill, Log, Lookup, Scale, Step
from merlin_poeem.serving.vocabulary import Vocabulary

UNKNOWN_TEXT = "a text that is no value \N{REPLACEMENT CHARACTER}"
KNOWN = 200
"""Values of a vocabulary among the samples, spread over all of it."""

# Pass columns on, some under another name.
_NO_STEP = (
    ConcatColumns,
    SelectionOp,
    SubsetColumns,
    SubtractionOp,
    ops.AddMetadata,
    ops.Rename,
)


@dataclass(frozen=True)
class WorkflowWay:
    """From a raw column to a feature."""

    source: str
    """The raw column."""
    steps: tuple[Step, ...] = ()
    """The first first."""
    samples: tuple[Any, ...] = ()
    """Raw values that the steps tell apart, but for nulls."""

    def then(self, step: Step, samples: Sequence[Any]) -> WorkflowWay:
        """With one more step."""
        return WorkflowWay(self.source, (*self.steps, step), (*self.samples, *samples))


def way_to(workflow: nvt.Workflow, feature: str) -> WorkflowWay:
    """How the fitted ``workflow`` makes ``feature`` of a raw column.

    Raises ``ValueError`` naming the operator and the column where it is none of those that
    :mod:`merlin_poeem.serving.steps` knows, or makes one column of several.
    """
    try:
        return _way(workflow.graph.output_node, feature)
    except _NoStep as error:
        raise ValueError(
            f"workflow: expected steps that a server knows on the way to column {feature!r}, got "
            f"{error}; name the column in as_made, and send it as the workflow makes it"
        ) from error


class _NoStep(Exception):
    """An operator that has no step."""


def _way(node: Any, column: str) -> WorkflowWay:
    """To a column that a node puts out."""
    if isinstance(node.op, Subgraph):
        if node.op.loop_until is not None:
            raise _NoStep(f"the subgraph {node.op.name!r}, which is run several times")
        return _way(node.op.graph.output_node, column)
    source = _source(node, column)
    before = [
        parent
        for parent in node.parents_with_dependencies
        if source in parent.output_schema.column_names
    ]
    # Of several the executor takes the last, too.
    way = _way(before[-1], source) if before else WorkflowWay(source)
    if isinstance(node.op, _NO_STEP):
        return way
    step, samples = _step(node.op, source, column)
    if isinstance(step, Lookup) and node.input_schema[source].is_list:
        # In lists NVTabular takes a null for a value that is not known.
        step = replace(step, null=step.unknown)
    return way.then(step, samples)


def _source(node: Any, column: str) -> str:
    sources = node.column_mapping.get(column, [column])
    if len(sources) != 1:
        raise _NoStep(f"{_name(node.op)}, which makes it of {list(sources)}")
    return str(sources[0])


def _name(operator: Any) -> str:
    return "LambdaOp" if isinstance(operator, UDF) else str(type(operator).__name__)


def _step(operator: Any, source: str, column: str) -> tuple[Step, list[Any]]:
    """The step of an operator, and values that it tells apart."""
    make = _STEPS.get(type(operator))
    if make is None or source != column:
        raise _NoStep(f"{_name(operator)} of column {source!r}")
    return make(operator, column)


def _fill_missing(operator: Any, _: str) -> tuple[Step, list[Any]]:
    return Fill(operator.fill_val), [operator.fill_val]


def _fill_median(operator: Any, column: str) -> tuple[Step, list[Any]]:
    return Fill(operator.medians[column]), [operator.medians[column]]


def _clip(operator: Any, _: str) -> tuple[Step, list[Any]]:
    bounds = [operator.min_value, operator.max_value]
    return Clip(*bounds), [bound for bound in bounds if bound is not None]


def _normalize(operator: Any, column: str) -> tuple[Step, list[Any]]:
    mean, deviation = float(operator.means[column]), float(operator.stds[column])
    by = deviation if deviation > 0 else 1.0
    return Scale(mean, by, _dtype_name(operator)), [mean, mean + deviation]


def _normalize_min_max(operator: Any, column: str) -> tuple[Step, list[Any]]:
    least, most = float(operator.mins[column]), float(operator.maxs[column])
    if least == most:
        raise _NoStep(f"NormalizeMinMax of column {column!r}, whose values were all {least}")
    return Scale(least, most - least, _dtype_name(operator)), [least, most]


def _log(operator: Any, _: str) -> tuple[Step, list[Any]]:
    return Log(), [0.0]


def _bucketize(operator: Any, column: str) -> tuple[Step, list[Any]]:
    boundaries = [float(boundary) for boundary in operator.boundaries(column)]
    return Bucketize(tuple(boundaries)), boundaries


def _dtype_name(operator: Any) -> str:
    return str(np.dtype(operator.output_dtype))


def _categorify(operator: Any, column: str) -> tuple[Step, list[Any]]:
    """The numbers are those that the operator itself gives, whatever their layout in its files."""
    if operator.num_buckets:
        raise _NoStep(f"Categorify of column {column!r} with num_buckets, which hashes")
    values = _vocabulary(operator, column)
    is_text = pd.api.types.infer_dtype(values) == "string"
    if not is_text and values.dtype.kind not in "iuf":
        raise _NoStep(f"Categorify of column {column!r}, whose values are {values.dtype}")
    if is_text and (values == "").any():
        raise _NoStep(f"Categorify of column {column!r} with an empty text, which stands for null")
    others = [UNKNOWN_TEXT if is_text else _number_not_in(values)]
    if values.dtype.kind not in "iu":
        others.append(None)
    given = pd.concat([values, pd.Series(others, dtype=values.dtype)], ignore_index=True)
    made = operator.transform(ColumnSelector([column]), pd.DataFrame({column: given}))
    codes, n = made[column].to_numpy(), len(values)
    vocabulary = Vocabulary.of(values.to_numpy(), codes[:n])
    lookup = Lookup(vocabulary, null=int(codes[-1]), unknown=int(codes[n]))
    places = np.linspace(0, n - 1, min(n, KNOWN)).astype(int)
    return lookup, [*values.iloc[places].tolist(), others[0]]


def _vocabulary(operator: Any, column: str) -> pd.Series:
    """What a fitted operator has numbers for, without nulls."""
    name = operator.storage_name.get(column, column)
    path = operator.categories.get(name)
    if path is None:
        raise _NoStep(f"Categorify of column {column!r}, which was fitted on no values")
    values = pd.read_parquet(path, columns=[name])[name].dropna().reset_index(drop=True)
    if not len(values):
        raise _NoStep(f"Categorify of column {column!r}, which was fitted on nulls alone")
    return values


def _number_not_in(values: pd.Series) -> Any:
    """A number that is none of ``values``."""
    missing = values.max() + 1
    return missing if missing > values.max() else values.min() - 1


_STEPS: dict[type[Any], Callable[[Any, str], tuple[Step, list[Any]]]] = {
    ops.Bucketize: _bucketize,
    ops.Categorify: _categorify,
    ops.Clip: _clip,
    ops.FillMedian: _fill_median,
    ops.FillMissing: _fill_missing,
    ops.LogOp: _log,
    ops.Normalize: _normalize,
    ops.NormalizeMinMax: _normalize_min_max,
}
