"""Rows of unequal length, as offsets and values: id lists going in, candidates coming out.

Their arrays are NumPy's or CuPy's, all of one library, and stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from merlin_poeem.arrays import (
    Float32,
    Int64,
    array_module,
    as_item_ids,
    owned,
    read_only,
    to_host,
)


def offsets_of(lengths: Int64) -> Int64:
    """(n + 1,) int64, where each row of (n,) ``lengths`` starts, and the last ends."""
    xp = array_module(lengths)
    offsets: Int64 = xp.zeros(len(lengths) + 1, np.int64)
    offsets[1:] = xp.cumsum(lengths)
    return offsets


@dataclass(frozen=True, eq=False)
class IdLists:
    """One list of item ids per query, such as the items a user has seen.

    Row i is ``values[offsets[i]:offsets[i + 1]]``, the layout of an Arrow or cuDF list column.
    NumPy arrays are read-only here, and copies where the ones given could be written to; CuPy
    arrays are the ones given, where they are int64.
    """

    offsets: Int64
    """(n_queries + 1,) int64, rising from 0 to len(values)."""

    values: Int64
    """(total,) int64; order and repeats within a row mean nothing."""

    def __post_init__(self) -> None:
        offsets = as_item_ids("offsets", self.offsets)
        values = as_item_ids("values", self.values)
        xp = array_module(offsets)
        if array_module(values) is not xp:
            raise TypeError(
                f"values: expected an array of {xp.__name__}, as offsets is; "
                f"got {array_module(values).__name__}"
            )
        fit = falls = False
        if len(offsets):
            fits = (offsets[0] == 0) & (offsets[-1] == len(values))
            # Read together: from a device each read waits for it.
            fit, falls = xp.stack((fits, (xp.diff(offsets) < 0).any())).tolist()
        if not fit:
            raise ValueError(f"offsets: expected to run from 0 to {len(values)}")
        if falls:
            raise ValueError("offsets: expected never to fall")
        if xp is np:
            offsets, values = owned(offsets), owned(values)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64:
        """(n_queries,) int64."""
        return self.offsets[1:] - self.offsets[:-1]

    def row(self, i: int) -> Int64:
        """The ids of query ``i``."""
        start, stop = self.offsets[i : i + 2].tolist()
        return self.values[start:stop]

    def rows(self, span: slice) -> IdLists:
        """The lists of the queries in ``span``, one after the other."""
        start, stop, _ = span.indices(len(self))
        offsets = self.offsets[start : stop + 1]
        return IdLists(offsets - offsets[0], self.values[offsets[0] : offsets[-1]])

    @classmethod
    def from_rows(cls, rows: Sequence[Any]) -> IdLists:
        """From one sequence of integer ids per query; None counts as an empty one."""
        parts = [as_item_ids("id list", () if row is None else row) for row in rows]
        xp = array_module(*parts)
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        values = xp.concatenate([xp.empty(0, np.int64), *map(xp.asarray, parts)])
        return cls(xp.asarray(offsets), read_only(values) if xp is np else values)

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
        return offsets_of(self.counts)

    @property
    def query_numbers(self) -> Int64:
        """(counts.sum(),) int64, the number of the query that each result is of."""
        xp = array_module(self.counts)
        # Not repeat, which in CuPy takes no counts from the device.
        results = xp.arange(len(self.scores))
        numbers: Int64 = xp.searchsorted(self.offsets[1:], results, side="right")
        return numbers

    def to_host(self) -> Candidates:
        """The same in NumPy arrays; itself where it is that already."""
        if array_module(self.scores) is np:
            return self
        return Candidates(to_host(self.counts), to_host(self.scores), to_host(self.item_ids))

    def to_device(self, xp: ModuleType) -> Candidates:
        """The same in arrays of ``xp``, such as CuPy."""
        return Candidates(*(xp.asarray(part) for part in (self.counts, self.scores, self.item_ids)))

    def padded(self, k: int, *, fill_id: int, fill_score: float = -np.inf) -> tuple[Float32, Int64]:
        """(scores, item_ids), both (n_queries, k), short rows filled with what the caller names.

        A view without a copy where every row has k results.
        """
        if (self.counts == k).all():
            shape = (len(self), k)
            return self.scores.reshape(shape), self.item_ids.reshape(shape)
        if len(self) and self.counts.max() > k:
            raise ValueError(f"k: expected at least {self.counts.max()} (the longest row), got {k}")
        xp = array_module(self.counts)
        filled = xp.arange(k) < self.counts[:, None]
        scores: Float32 = xp.full(filled.shape, fill_score, np.float32)
        item_ids: Int64 = xp.full(filled.shape, fill_id, np.int64)
        scores[filled], item_ids[filled] = self.scores, self.item_ids
        return scores, item_ids

    @classmethod
    def concatenated(cls, parts: Sequence[Candidates]) -> Candidates:
        """The queries of all parts, one after the other; itself where there is one part."""
        if len(parts) == 1:
            return parts[0]
        xp = array_module(*(part.scores for part in parts))
        return cls(
            xp.concatenate([part.counts for part in parts]),
            xp.concatenate([part.scores for part in parts]),
            xp.concatenate([part.item_ids for part in parts]),
        )

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Float32, Int64]]) -> Candidates:
        """From one (scores, item_ids) pair per query."""
        xp = array_module(*(scores for scores, _ in rows))
        counts = np.array([len(scores) for scores, _ in rows], np.int64)
        scores = xp.concatenate([xp.empty(0, np.float32), *(scores for scores, _ in rows)])
        item_ids = xp.concatenate([xp.empty(0, np.int64), *(ids for _, ids in rows)])
        return cls(xp.asarray(counts), scores, item_ids)
