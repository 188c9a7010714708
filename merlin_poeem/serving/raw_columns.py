"""The columns of a request as a tower's tensors: as a workflow made them in training, or as given.

``raw_columns.json``, beside the tower, says from which raw column each feature comes, and by which
steps. Where there is none, requests hold the tower's features themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64
from merlin_poeem.atomic_files import new_file
from merlin_poeem.serving.features import TowerFeature
from merlin_poeem.serving.input_spec import TEXT, InputSpec
from merlin_poeem.serving.steps import Step, load_step, save_step
from merlin_poeem.serving.tower_facts import TowerFacts

COLUMNS_FILE = "raw_columns.json"
VOCABULARY = "vocabulary"
"""What the names of the vocabularies' files begin with."""
MAGIC = "merlin_poeem raw columns"
FORMAT_VERSION = 1

Column: TypeAlias = tuple[NDArray[Any], "Int64 | None"]
"""Values (n,), or (n, length); or of lists of any length (total,), and offsets (n + 1,)."""


def n_rows_of(column: Column) -> int:
    """The rows of a column."""
    values, offsets = column
    return len(values) if offsets is None else len(offsets) - 1


@dataclass(frozen=True, eq=False)
class Way:
    """From a raw column to a feature."""

    feature: TowerFeature
    source: str
    """The raw column."""
    steps: tuple[Step, ...] = ()

    def made(self, values: NDArray[Any]) -> NDArray[Any]:
        """The feature's values of the raw column's (total,)."""
        for step in self.steps:
            values = step.apply(values)
        return values


@dataclass(frozen=True, eq=False)
class RawColumns:
    """What requests hold, and how a tower's tensors are made of it."""

    inputs: list[InputSpec]
    """The columns that requests hold."""
    ways: list[Way]
    """To each feature of the tower."""
    absent: dict[str, int | None] = field(default_factory=dict)
    """What stands in the place of an optional column that is not sent; None is a null."""

    @classmethod
    def of_features(cls, features: tuple[TowerFeature, ...]) -> RawColumns:
        """Requests that hold the tower's own columns."""
        ways = [Way(feature, feature.name) for feature in features]
        return cls([input_of(feature) for feature in features], ways)

    @classmethod
    def load(cls, folder: Path) -> RawColumns:
        """Of the tower in ``folder``; ``ValueError`` where that, or its columns, are damaged."""
        features = {feature.name: feature for feature in TowerFacts.load(folder).features}
        path = folder / COLUMNS_FILE
        if not path.exists():
            return cls.of_features(tuple(features.values()))
        try:
            told = json.loads(path.read_text())
            if (told["magic"], told["format_version"]) != (MAGIC, FORMAT_VERSION):
                raise ValueError(f"{told['magic']!r}, version {told['format_version']}")
            ways = [
                Way(
                    features[way["feature"]],
                    way["source"],
                    tuple(load_step(step, folder) for step in way["steps"]),
                )
                for way in told["ways"]
            ]
            return cls([InputSpec(**spec) for spec in told["inputs"]], ways, told["absent"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected {MAGIC!r}, version {FORMAT_VERSION}, and its vocabularies; got "
                f"{error}"
            ) from error

    def save(self, folder: Path) -> None:
        """Write ``raw_columns.json`` and the vocabularies into the ``folder`` of the tower."""
        ways = [
            {
                "feature": way.feature.name,
                "source": way.source,
                "steps": [
                    save_step(step, folder, f"{VOCABULARY}-{number}-{place}")
                    for place, step in enumerate(way.steps)
                ],
            }
            for number, way in enumerate(self.ways)
        ]
        told = {
            "magic": MAGIC,
            "format_version": FORMAT_VERSION,
            "inputs": [asdict(spec) for spec in self.inputs],
            "ways": ways,
            "absent": self.absent,
        }
        with new_file(folder / COLUMNS_FILE) as file:
            file.write(json.dumps(told, indent=1).encode())

    def tensors(self, columns: Mapping[str, Column]) -> dict[str, NDArray[Any]]:
        """The tower's tensors, as :meth:`~merlin_poeem.serving.towers.ServedTower.vectors` takes.

        Parameters
        ----------
        columns
            The values of each of ``inputs``, but for optional ones, and offsets (n + 1,) int64 of
            lists of any length. Texts are objects, ``str`` or bytes in UTF-8; an empty one is a
            null, as NaN is.

        Raises
        ------
        TypeError
            A column of another dtype.
        ValueError
            Columns that are missing, unknown or of different rows, texts that are not UTF-8, and
            what a tower has no place for: values that are not finite, do not fit in its dtype or
            are outside its domain, lists of another length.
        """
        tensors: dict[str, NDArray[Any]] = {}
        for way, values, offsets in self.made(columns):
            feature = way.feature
            checked = feature.checked(values, offsets)
            if feature.length is None:
                tensors |= feature.tensors(checked, offsets)
            else:
                shape = (-1, feature.length) if feature.length else (-1,)
                tensors |= feature.tensors(checked.reshape(shape), None)
        return tensors

    def made(self, columns: Mapping[str, Column]) -> list[tuple[Way, NDArray[Any], Int64 | None]]:
        """To each feature its way, values (total,) that are not checked, and of lists offsets.

        Raises as :meth:`tensors` does of the columns that are given.
        """
        given = self._with_absent(columns)
        read = {spec.name: _read(spec, *given[spec.name]) for spec in self.inputs}
        lengths = {name: n_rows_of(column) for name, column in read.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns: expected the same number of rows in all, got {lengths}")
        return [(way, way.made(read[way.source][0]), read[way.source][1]) for way in self.ways]

    def _with_absent(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """``columns`` and, in the place of optional ones that are not sent, what stands for them.

        ``ValueError`` where others are missing, or there are some that nobody knows.
        """
        needed = {spec.name for spec in self.inputs if not spec.optional}
        known = {spec.name for spec in self.inputs}
        if not needed <= columns.keys() <= known:
            raise ValueError(f"columns: expected {sorted(needed)}, got {sorted(columns)}")
        given = dict(columns)
        for spec in self.inputs:
            if spec.name not in given:
                n_rows = n_rows_of(next(iter(columns.values())))
                given[spec.name] = _stand_in(spec, self.absent[spec.name], n_rows), None
        return given


def files_of(folder: Path) -> list[Path]:
    """What :meth:`RawColumns.save` wrote into ``folder``, by name."""
    names = (COLUMNS_FILE, f"{VOCABULARY}-*")
    return sorted(path for name in names for path in folder.glob(name))


def input_of(feature: TowerFeature) -> InputSpec:
    """The column of a request that holds a feature itself."""
    return InputSpec(feature.name, feature.dtype or "int64", feature.length)


def _stand_in(spec: InputSpec, value: int | None, n_rows: int) -> NDArray[Any]:
    if spec.dtype == TEXT:
        return np.full(n_rows, "", object)
    return np.full(n_rows, np.nan if value is None else value, spec.dtype)


def _read(spec: InputSpec, values: NDArray[Any], offsets: Int64 | None) -> Column:
    """The values (total,) of a column in its dtype, texts as ``str``, and of lists the offsets."""
    if spec.dtype == TEXT:
        flat = _as_texts(spec.name, values)
    elif values.dtype != spec.dtype:
        raise TypeError(f"column {spec.name!r}: expected {spec.dtype}, got {values.dtype}")
    else:
        flat = values.reshape(-1)
    _check_shape(spec, values, offsets)
    if spec.length:
        offsets = np.arange(len(values) + 1, dtype=np.int64) * spec.length
    return flat, offsets


def _check_shape(spec: InputSpec, values: NDArray[Any], offsets: Int64 | None) -> None:
    shape = (spec.length,) if spec.length else ()
    if values.shape[1:] != shape or values.ndim != 1 + len(shape):
        raise ValueError(
            f"column {spec.name!r}: expected shape {('n', *shape)}, got {values.shape}"
        )
    if (offsets is None) is (spec.length is None):
        expected = "offsets, as its lists are of any length" if offsets is None else "no offsets"
        raise ValueError(f"column {spec.name!r}: expected {expected}")


def _as_texts(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """(total,) ``str`` objects; raises where a value is none, nor UTF-8."""
    if values.dtype.kind not in "OSU":
        raise TypeError(f"column {name!r}: expected texts, got {values.dtype}")
    texts = np.empty(values.size, object)
    for place, value in enumerate(values.reshape(-1).tolist()):
        try:
            texts[place] = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            raise ValueError(
                f"column {name!r}: expected texts in UTF-8, got {value[:32]!r} as value {place}"
            ) from error
        if not isinstance(texts[place], str):
            raise TypeError(
                f"column {name!r}: expected texts, got {value!r:.80} ({type(value).__name__})"
            )
    return texts
