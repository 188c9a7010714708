"""From the columns of a request to query vectors: by the tower of a version, or as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from merlin_poeem.arrays import Float32, as_vectors, to_host
from merlin_poeem.serving.inputs import Column
from merlin_poeem.serving.raw_columns import RawColumns
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
    """Requests that hold raw columns, of which a tower makes vectors."""

    def __init__(self, folder: Path) -> None:
        """Of the folder that the export saved; raises what ``open_tower`` raises."""
        self._raw_columns, self._tower = RawColumns.load(folder), open_tower(folder)
        self.inputs = self._raw_columns.inputs

    def vectors(self, columns: Columns) -> Float32:
        """(n, dim) float32.

        Raises what ``RawColumns.tensors`` and ``ServedTower.vectors`` raise.
        """
        given = {name: (column.values, column.offsets) for name, column in columns.items()}
        return self._tower.vectors(self._raw_columns.tensors(given))
