"""From the columns of a request to query vectors: by the tower of a version, or as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from merlin_poeem.arrays import Float32, as_vectors
from merlin_poeem.serving.inputs import Column
from merlin_poeem.serving.raw_columns import RawColumns
from merlin_poeem.serving.towers import open_tower

QUERY_VECTOR = "query_vector"

Columns = Mapping[str, Column]


class VectorsAsked:
    """Requests that hold the vectors themselves."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def vectors(self, columns: Columns) -> Float32:
        """(n, dim) float32; ``ValueError`` where they are not finite."""
        return as_vectors(QUERY_VECTOR, columns[QUERY_VECTOR].values, self._dim)


class FeaturesAsked:
    """Requests that hold raw columns, of which a tower makes vectors."""

    def __init__(self, folder: Path) -> None:
        """Of the folder that the export saved; raises what ``open_tower`` raises."""
        self._raw_columns = RawColumns.load(folder)
        self._tower = open_tower(folder)

    def vectors(self, columns: Columns) -> Float32:
        """(n, dim) float32; raises what ``RawColumns.tensors`` and ``ServedTower.vectors`` do."""
        given = {name: (column.values, column.offsets) for name, column in columns.items()}
        return self._tower.vectors(self._raw_columns.tensors(given))
