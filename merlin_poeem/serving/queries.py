"""From the columns of a request to query vectors: by the tower of a version, or as they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, as_vectors, to_host
from merlin_poeem.serving.features import TowerFeature
from merlin_poeem.serving.inputs import Column, InputSpec
from merlin_poeem.serving.tower_facts import OUTPUT as QUERY_VECTOR
from merlin_poeem.serving.towers import open_tower

Columns = Mapping[str, Column]


class VectorsAsked:
    """Requests that hold the vectors themselves."""

    def __init__(self, dim: int, *, on_device: bool) -> None:
        self._dim, self._on_device = dim, on_device

    def vectors(self, columns: Columns) -> Float32:
        """(n, dim) float32, on the device where the search is there and they came from there.

        ``ValueError`` where they are not finite.
        """
        values = columns[QUERY_VECTOR].values
        return as_vectors(QUERY_VECTOR, values if self._on_device else to_host(values), self._dim)


class FeaturesAsked:
    """Requests that hold a tower's columns, of which it makes vectors."""

    def __init__(self, folder: Path) -> None:
        """Of the folder that the export saved; raises what ``open_tower`` raises."""
        self._tower = open_tower(folder)
        self.inputs = inputs_of(self._tower.facts.features)

    def vectors(self, columns: Columns) -> Float32:
        """(n, dim) float32.

        Raises what ``TowerFeature.checked`` and ``ServedTower.vectors`` raise.
        """
        tensors: dict[str, NDArray[Any]] = {}
        for feature in self._tower.facts.features:
            column = columns[feature.name]
            values = feature.checked(column.values, column.offsets)
            tensors |= feature.tensors(values, column.offsets)
        return self._tower.vectors(tensors)


def inputs_of(features: Iterable[TowerFeature]) -> list[InputSpec]:
    """The columns of requests that hold what a tower reads."""
    return [InputSpec(one.name, str(one.dtype), one.length) for one in features]
