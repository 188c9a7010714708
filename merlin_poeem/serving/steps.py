"""What a workflow does to the values of a column, one operator after the other, in NumPy.

A step takes and gives the values (total,) of a column, of lists those of all rows. A null is NaN in
floats and ``""`` in texts; integers have none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.serving.vocabulary import Vocabulary

Values = NDArray[Any]


class Step(Protocol):
    """One of those below."""

    def apply(self, values: Values) -> Values:
        """The values after it."""
        ...


@dataclass(frozen=True)
class Fill:
    """A value in the place of nulls: ``FillMissing``, ``FillMedian``."""

    value: Any

    def apply(self, values: Values) -> Values:
        """Texts or floats, as they came; integers are returned as they are."""
        if values.dtype.kind in "iu":
            return values
        is_null = np.isnan(values) if values.dtype.kind == "f" else values == ""
        return np.where(is_null, values.dtype.type(self.value), values)


@dataclass(frozen=True)
class Clip:
    """``Clip``."""

    least: float | None
    most: float | None

    def apply(self, values: Values) -> Values:
        """NaN stays."""
        if self.least is not None:
            values = np.where(values < self.least, self.least, values)
        if self.most is not None:
            values = np.where(values > self.most, self.most, values)
        return values


@dataclass(frozen=True)
class Scale:
    """``Normalize`` and ``NormalizeMinMax``: less ``shift``, divided by ``by``."""

    shift: float
    by: float
    dtype: str

    def apply(self, values: Values) -> Values:
        """In ``dtype``."""
        return ((values - self.shift) / self.by).astype(self.dtype)


@dataclass(frozen=True)
class Log:
    """``LogOp``."""

    def apply(self, values: Values) -> Values:
        """float32; NaN or infinity where there is no logarithm."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithms: Values = np.log(values.astype(np.float32) + np.float32(1))
        return logarithms


@dataclass(frozen=True)
class Bucketize:
    """``Bucketize``."""

    boundaries: tuple[float, ...]

    def apply(self, values: Values) -> Values:
        """int32."""
        return np.digitize(values, np.array(self.boundaries)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Lookup:
    """``Categorify``."""

    vocabulary: Vocabulary
    null: int
    unknown: int

    def apply(self, values: Values) -> Values:
        """int64."""
        codes = self.vocabulary.codes_of(values, self.unknown)
        if values.dtype.kind in "iu":
            return codes
        is_null = np.isnan(values) if values.dtype.kind == "f" else values == ""
        return np.where(is_null, self.null, codes)


_PLAIN: dict[str, type[Any]] = {kind.__name__: kind for kind in (Fill, Clip, Scale, Log, Bucketize)}


def save_step(step: Any, folder: Path, vocabulary: str) -> dict[str, Any]:
    """``step`` for JSON; one with a vocabulary writes it into ``folder`` under that name."""
    if not isinstance(step, Lookup):
        return {"step": type(step).__name__, **asdict(step)}
    step.vocabulary.save(folder, vocabulary)
    return {"step": "Lookup", "vocabulary": vocabulary, "null": step.null, "unknown": step.unknown}


def load_step(told: dict[str, Any], folder: Path) -> Step:
    """What :func:`save_step` returned; raises ``KeyError`` on another step."""
    arguments = dict(told)
    kind = arguments.pop("step")
    if kind == "Lookup":
        vocabulary = Vocabulary.load(folder, arguments.pop("vocabulary"))
        return Lookup(vocabulary, **arguments)
    step: Step = _PLAIN[kind](**arguments)
    return step
