"""Rows of unequal length, as offsets and values: id lists going in, candidates coming out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64, as_item_ids


@dataclass(frozen=True, eq=False)
class IdLists:
    """One list of item ids per query, such as the items a user has seen.

    Row i is ``values[offsets[i]:offsets[i + 1]]``, the layout of an Arrow or cuDF list column.
    """

    offsets: Int64
    """(n_queries + 1,) int64, rising from 0 to len(values)."""

    values: Int64
    """(total,) int64; order and repeats within a row mean nothing."""

    def __post_init__(self) -> None:
        offsets = as_item_ids("offsets", self.offsets)
        object.__setattr__(self, "values", as_item_ids("values", self.values))
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(self.values):
            raise ValueError(f"offsets: expected to run from 0 to {len(self.values)}")
        if (np.diff(offsets) < 0).any():
            raise ValueError("offsets: expected never to fall")
        object.__setattr__(self, "offsets", offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64:
        """(n_queries,) int64."""
        return np.diff(self.offsets)

    def row(self, i: int) -> Int64:
        """The ids of query ``i``."""
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: Int64) -> IdLists:
        """The lists of ``rows``, in that order."""
        return IdLists.from_rows([self.row(int(i)) for i in rows])

    @classmethod
    def from_rows(cls, rows: Sequence[Any]) -> IdLists:
        """From one sequence of integer ids per query; None counts as an empty one."""
        parts = [as_item_ids("id list", () if row is None else row) for row in rows]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(offsets, np.concatenate(parts) if parts else np.empty(0, np.int64))

    @classmethod
    def of(cls, name: str, lists: Any, n_queries: int) -> IdLists:
        """``lists`` (an IdLists or a sequence of rows) checked to have ``n_queries`` rows."""
        id_lists = lists if isinstance(lists, IdLists) else cls.from_rows(lists)
        if len(id_lists) != n_queries:
            raise ValueError(
                f"{name}: expected {n_queries} lists, one a query; got {len(id_lists)}"
            )
        return id_lists


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a search returns: for each query its best items, best first, ties by lower item id.

    Rows hold the results there are, never a padding: ``counts`` says how many. Row i is
    ``scores[offsets[i]:offsets[i + 1]]`` and the same of ``item_ids``.
    """

    counts: Int64
    """(n_queries,) int64, results per query; fewer than k where the candidates ran out."""

    scores: Float32
    """(counts.sum(),) float32, falling within a row."""

    item_ids: Int64
    """(counts.sum(),) int64."""

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, i: int) -> tuple[Float32, Int64]:
        """(scores, item_ids) of query ``i``."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"query {i} of {len(self)}")
        end = int(self.counts[: i % len(self) + 1].sum())
        span = slice(end - int(self.counts[i]), end)
        return self.scores[span], self.item_ids[span]

    @property
    def offsets(self) -> Int64:
        """(n_queries + 1,) int64, where each row starts and the last ends."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    def padded(self, k: int, *, fill_id: int, fill_score: float = -np.inf) -> tuple[Float32, Int64]:
        """(scores, item_ids), both (n_queries, k), short rows filled with what the caller names.

        A view without a copy where every row has k results.
        """
        if (self.counts == k).all():
            shape = (len(self), k)
            return self.scores.reshape(shape), self.item_ids.reshape(shape)
        if len(self) and self.counts.max() > k:
            raise ValueError(f"k: expected at least {self.counts.max()} (the longest row), got {k}")
        filled = np.arange(k) < self.counts[:, None]
        scores = np.full(filled.shape, fill_score, np.float32)
        item_ids = np.full(filled.shape, fill_id, np.int64)
        scores[filled], item_ids[filled] = self.scores, self.item_ids
        return scores, item_ids

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Float32, Int64]]) -> Candidates:
        """From one (scores, item_ids) pair per query."""
        counts = np.array([len(scores) for scores, _ in rows], np.int64)
        scores = np.concatenate([np.empty(0, np.float32), *(scores for scores, _ in rows)])
        item_ids = np.concatenate([np.empty(0, np.int64), *(ids for _, ids in rows)])
        return cls(counts, scores, item_ids)
