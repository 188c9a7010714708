"""What Triton loads of a query tower that was exported apart: features in, query vectors out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from merlin_poeem.serving.inputs import Arrays, Column, concatenated, read_column
from merlin_poeem.serving.queries import FeaturesAsked
from merlin_poeem.serving.responses import arrays_of, error_response
from merlin_poeem.serving.spec import TOWER
from merlin_poeem.serving.together import answer_each
from merlin_poeem.serving.tower_facts import OUTPUT as QUERY_VECTOR

Columns = dict[str, Column]


class TowerRows:
    """A version's folder, opened: requests in, query vectors out."""

    def __init__(self, folder: Path) -> None:
        """Raises what ``open_tower`` raises."""
        self._queries = FeaturesAsked(folder / TOWER)

    def answer(self, requests: list[Arrays]) -> list[Any]:
        """(n, dim) float32 for each request, or what is wrong with it."""
        asked = [self._read(arrays) for arrays in requests]
        return answer_each(asked, lambda columns: frozenset(columns), self._vectors)

    def _read(self, arrays: Arrays) -> Columns | Exception:
        try:
            columns = {spec.name: read_column(spec, arrays) for spec in self._queries.inputs}
        except (TypeError, ValueError) as error:
            return error
        return {name: column for name, column in columns.items() if column is not None}

    def _vectors(self, asked: list[Columns]) -> list[Any]:
        together = {name: concatenated([one[name] for one in asked]) for name in asked[0]}
        vectors = self._queries.vectors(together)
        ends = np.cumsum([len(next(iter(one.values()))) for one in asked])
        return np.split(vectors, ends[:-1])


class TritonPythonModel:
    """One instance of the tower."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Open the version; a model that fails here is not ready, and Triton shows why."""
        import triton_python_backend_utils as backend  # there in Triton's stub alone

        self._backend = backend
        self._rows = TowerRows(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request, in their order."""
        answers = self._rows.answer([arrays_of(request) for request in requests])
        return [self._response(answer) for answer in answers]

    def _response(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            return error_response(self._backend, answer)
        tensor = self._backend.Tensor(QUERY_VECTOR, answer)
        return self._backend.InferenceResponse([tensor])
