"""A served version, opened: requests in, candidates out. What Triton calls, without Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Float32
from merlin_poeem.index.loading import load_index
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.searcher import open_searcher
from merlin_poeem.serving.inputs import Arrays
from merlin_poeem.serving.own_options import search_rows
from merlin_poeem.serving.queries import FeaturesAsked, VectorsAsked
from merlin_poeem.serving.requests import Asked
from merlin_poeem.serving.spec import INDEX, TOWER, ServingSpec
from merlin_poeem.serving.titles import NOTHING, Titles
from merlin_poeem.serving.together import answer_each

FILL_ID = -1
FILL_SCORE = float(np.finfo(np.float32).min)
"""Beyond a row's count. Not minus infinity, which JSON has no number for."""
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
        self._queries: FeaturesAsked | VectorsAsked
        if self.spec.has_tower:
            self._queries = FeaturesAsked(folder / TOWER)
        else:
            self._queries = VectorsAsked(self.index.dim, on_device=self.searcher.on_device)
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
        asked = [self._read(arrays, names) for arrays, names in zip(requests, wanted, strict=True)]
        return answer_each(asked, lambda one: one[0].kind, self._search)

    def _read(self, arrays: Arrays, names: set[str]) -> tuple[Asked, set[str]] | Exception:
        try:
            asked = Asked.read(arrays, self.spec.inputs, self.index, self.spec.limits)
        except (TypeError, ValueError) as error:
            return error
        return asked, names

    def _search(self, asked: list[tuple[Asked, set[str]]]) -> list[Answer]:
        together = Asked.together([one for one, _ in asked])
        queries = self._queries.vectors(together.columns)
        found = search_rows(
            self.searcher, queries, together.wanted, together.exclude, together.allow
        ).to_host()
        answers, row, item = [], 0, 0
        for one, names in asked:
            rows = slice(row, row + len(one))
            counts = found.counts[rows]
            items = slice(item, item + int(counts.sum()))
            part = Candidates(counts, found.scores[items], found.item_ids[items])
            answers.append(Answer(queries[rows], one.wanted, self._arrays(part, one, names)))
            row, item = rows.stop, items.stop
        return answers

    def _arrays(self, found: Candidates, asked: Asked, names: set[str]) -> dict[str, NDArray[Any]]:
        k = int(asked.wanted[:, 0].max(initial=0))
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


def _padded_texts(texts: Any, filled: NDArray[np.bool_]) -> NDArray[np.object_]:
    padded = np.full(filled.shape, NOTHING, object)
    padded[filled] = texts
    return padded
