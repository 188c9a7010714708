"""A served version, opened: requests in, candidates out. What Triton calls, without Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32, as_vectors
from merlin_poeem.index.loading import load_index
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.searcher import open_searcher
from merlin_poeem.serving.inputs import Arrays
from merlin_poeem.serving.own_options import search_rows
from merlin_poeem.serving.requests import Asked
from merlin_poeem.serving.spec import INDEX, TOWER, ServingSpec
from merlin_poeem.serving.titles import NOTHING, Titles

FILL_ID = -1
FILL_SCORE = float(np.finfo(np.float32).min)
"""Beyond a row's count. Not minus infinity, which JSON has no number for."""
QUERY_VECTOR = "query_vector"
OUTPUTS = ("item_ids", "scores", "counts")
TITLES = "titles"


@dataclass(frozen=True, eq=False)
class Answer:
    """To one request."""

    queries: Float32
    """(n, dim) raw vectors that were searched with."""
    wanted: NDArray[np.int64]
    """(n, 3), of each row what it asked for."""
    arrays: dict[str, NDArray[Any]]
    """The tensors by name."""

    @property
    def n_short(self) -> int:
        """Rows with fewer than they asked for."""
        return int((self.arrays["counts"].reshape(-1) < self.wanted[:, 0]).sum())


class Retrieval:
    """Tower and index of a version's folder."""

    def __init__(self, folder: Path) -> None:
        """Open them; raises what ``load_index``, ``open_searcher`` and ``open_tower`` raise."""
        self.spec = ServingSpec.load(folder)
        self.index = load_index(folder / INDEX)
        self.searcher = open_searcher(self.index, self.spec.backend)
        self._titles = self._open_titles()
        self._tower = self._columns = None
        if self.spec.has_tower:
            from merlin_poeem.serving.raw_columns import RawColumns
            from merlin_poeem.serving.towers import open_tower

            self._tower = open_tower(folder / TOWER)
            self._columns = RawColumns.load(folder / TOWER)
        _ = self.index.item_keys  # read now, and not by the first request

    def answer(
        self, requests: Sequence[Arrays], outputs: Sequence[set[str]] | None = None
    ) -> list[Answer | Exception]:
        """An answer to each request, or what is wrong with it; one does not hurt another.

        ``requests`` are tensors by name. ``outputs`` names for each request what it wants to have;
        None is all. An exception is a ``TypeError`` or a ``ValueError`` where the request is to
        blame.
        """
        wanted = outputs or [{*OUTPUTS, TITLES}] * len(requests)
        answers: list[Answer | Exception] = [ValueError("not answered")] * len(requests)
        asked: dict[int, Asked] = {}
        for number, arrays in enumerate(requests):
            try:
                asked[number] = Asked.read(arrays, self.spec.inputs, self.index, self.spec.limits)
            except (TypeError, ValueError) as error:
                answers[number] = error
        for numbers in _by_kind(asked):
            of_kind = [asked[number] for number in numbers]
            found = self._found(of_kind, [wanted[number] for number in numbers])
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers

    def _found(self, asked: list[Asked], outputs: list[set[str]]) -> Sequence[Answer | Exception]:
        """All at once, or where that fails each alone, so that the one to blame is found."""
        try:
            return self._search(asked, outputs)
        except Exception as error:
            if len(asked) == 1:
                return [error]
            return [self._found([one], [of])[0] for one, of in zip(asked, outputs, strict=True)]

    def _search(self, asked: list[Asked], outputs: list[set[str]]) -> list[Answer]:
        together = Asked.together(asked)
        queries = self._queries(together)
        found = search_rows(
            self.searcher, queries, together.wanted, together.exclude, together.allow
        ).to_host()
        answers, row, item = [], 0, 0
        for one, names in zip(asked, outputs, strict=True):
            rows = slice(row, row + len(one))
            counts = found.counts[rows]
            items = slice(item, item + int(counts.sum()))
            part = Candidates(counts, found.scores[items], found.item_ids[items])
            answers.append(Answer(queries[rows], one.wanted, self._arrays(part, one, names)))
            row, item = rows.stop, items.stop
        return answers

    def _queries(self, asked: Asked) -> Float32:
        if self._tower is None or self._columns is None:
            return as_vectors(QUERY_VECTOR, asked.columns[QUERY_VECTOR].values, self.index.dim)
        given = {name: (column.values, column.offsets) for name, column in asked.columns.items()}
        return self._tower.vectors(self._columns.tensors(given))

    def _arrays(self, found: Candidates, asked: Asked, names: set[str]) -> dict[str, NDArray[Any]]:
        k = int(asked.wanted[:, 0].max())
        scores, item_ids = found.padded(k, fill_id=FILL_ID, fill_score=FILL_SCORE)
        counts = found.counts.astype(np.int32).reshape(-1, 1)
        arrays: dict[str, NDArray[Any]] = {"counts": counts, "scores": scores}
        filled = np.arange(k) < counts
        keys = self.index.item_keys
        if keys is None:
            arrays["item_ids"] = item_ids
        else:
            texts = [key.encode() for key in keys.keys_of(found.item_ids)]
            arrays["item_ids"] = _padded_texts(texts, filled)
        if self._titles is not None and TITLES in names:
            arrays[TITLES] = _padded_texts(self._titles.of(found.item_ids), filled)
        return arrays

    def _open_titles(self) -> Titles | None:
        if self.spec.titles is None:
            return None
        table = self.index.item_table
        if table is None or self.spec.titles not in table:
            got = None if table is None else list(table.columns)
            raise ValueError(f"titles: expected a column {self.spec.titles!r}, got {got}")
        return Titles(table, self.spec.titles)


def _by_kind(asked: dict[int, Asked]) -> list[list[int]]:
    """The numbers of requests that can be answered together."""
    kinds: dict[Any, list[int]] = {}
    for number, one in asked.items():
        kinds.setdefault(one.kind, []).append(number)
    return list(kinds.values())


def _padded_texts(texts: Any, filled: NDArray[np.bool_]) -> NDArray[np.object_]:
    padded = np.full(filled.shape, NOTHING, object)
    padded[filled] = texts
    return padded
