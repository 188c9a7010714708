"""What is searched: the items' vectors, two batches of queries, and what is right for them.

Settings are chosen by one batch and reported by the other. Items go by their row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogs import Catalog
from benchmarks.quality.relevance import FEW
from benchmarks.quality.trial import Trial, load_trial
from merlin_poeem import IdLists, Index
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.evaluate import exact_search, recall_at_k

NO_ROW = -1


@dataclass(frozen=True)
class Right:
    """The right items of each query, to be among its first ``k`` results."""

    rows: IdLists
    k: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries that are searched together."""

    queries: Float32
    """(n_queries, dim) float32."""
    exclude: IdLists | None
    """Per query, the rows never to be returned."""
    right: dict[str, Right]
    """By the name of the metric; settings are chosen by the first one."""
    n_items: int

    def quality(self, rows: Int64) -> dict[str, float]:
        """Recall of (n_queries, width) rows, best first, by the name of the metric."""
        return {
            name: recall_at_k(rows[:, : right.k], right.rows, right.k)
            for name, right in self.right.items()
        }

    def check(self, rows: Int64) -> None:
        """``AssertionError`` where a row comes twice for a query, or one that it excludes."""
        for i, found in enumerate(rows):
            found = found[found != NO_ROW]
            assert len(np.unique(found)) == len(found), f"query {i}: an item came twice"
            if self.exclude is not None:
                assert not np.isin(found, self.exclude.row(i)).any(), f"query {i}: excluded item"

    @cached_property
    def is_excluded(self) -> NDArray[np.bool_]:
        """(n_queries, n_items), for methods that know no excluded items."""
        is_excluded = np.zeros((len(self.queries), self.n_items), bool)
        if self.exclude is not None:
            queries = np.repeat(np.arange(len(self.queries)), self.exclude.lengths)
            is_excluded[queries, self.exclude.values] = True
        return is_excluded


@dataclass(frozen=True, eq=False)
class Material:
    """What every method is built from and searched with."""

    name: str
    vectors: Float32
    """(n_items, dim) float32, compared by inner product."""
    k: int
    """Results wanted of every search."""
    n_lists: int
    code_bytes: int
    """Of the codes of an item, without the scale."""
    chosen_by: Batch
    reported: Batch
    exact: dict[str, float]
    """By the name of the metric, what exact search is worth on the reported queries."""
    learned: Index | None = None
    """The index that was trained with the towers; None: ours is fitted afterwards, as all are."""


def made_up(
    n_items: int, dim: int, n_lists: int, code_bytes: int, n_queries: int, k: int
) -> Material:
    """A clustered catalog of :mod:`benchmarks.catalogs`; all that is right is the exact first."""
    catalog = Catalog("clustered", n_items, dim)
    vectors = np.concatenate(list(catalog.chunks()))
    name = f"recall_at_{k}"
    batches = []
    for part in range(2):
        queries = catalog.queries(n_queries, part=part)
        right = {name: Right(_exact_rows(vectors, queries, k, None), k)}
        batches.append(Batch(queries, None, right, n_items))
    title = f"clustered-{n_items}x{dim}"
    return Material(title, vectors, k, n_lists, code_bytes, *batches, {name: 1.0})


def of_trial(folder: Path, n_queries: int, k: int) -> Material:
    """A model that :mod:`benchmarks.quality.training` trained: agreement, and recall of the pairs
    that were held out.

    ``FileNotFoundError`` where the trial is not whole; ``ValueError`` where it has no index;
    ``PermissionError`` where what was held out are test pairs.
    """
    trial = load_trial(folder)
    if trial.index is None:
        raise ValueError(f"{folder}: expected a trial with an index, got {trial.name}")
    trial = trial.of_some_queries(2 * n_queries)
    shuffled = np.random.default_rng(0).permutation(len(trial.queries))
    batches = [_batch_of(trial, half, k) for half in np.array_split(shuffled, 2)]
    exact = batches[1].right[f"agreement_at_{k}"].rows
    found = np.full((len(exact), k), NO_ROW)
    for i in range(len(exact)):
        found[i, : len(exact.row(i))] = exact.row(i)
    params = trial.index.params
    return Material(
        f"{trial.name.task}-{trial.name.variant}-{trial.name.seed}",
        trial.item_vectors,
        k,
        params.n_lists,
        params.pq_dim * params.pq_bits // 8,
        *batches,
        batches[1].quality(found),
        trial.index,
    )


def _batch_of(trial: Trial, numbers: Int64, k: int) -> Batch:
    """The queries of ``numbers``; items that the trial does not hold are right for none of them."""
    queries = np.ascontiguousarray(trial.queries[numbers])
    groups = trial.relevance.groups[numbers]
    wanted = _in_rows(trial, [trial.relevance.lists.row(group) for group in groups])
    exclude = None
    if trial.exclude is not None:
        exclude = _in_rows(trial, [trial.exclude.row(number) for number in numbers])
    right = {
        f"agreement_at_{k}": Right(_exact_rows(trial.item_vectors, queries, k, exclude), k),
        f"recall_at_{FEW}": Right(wanted, FEW),
    }
    return Batch(queries, exclude, right, len(trial.item_ids))


def _in_rows(trial: Trial, lists: list[Int64]) -> IdLists:
    """Lists of item ids as lists of rows, without the ids that the trial does not hold."""
    order = np.argsort(trial.item_ids)
    in_order = trial.item_ids[order]
    found = []
    for item_ids in lists:
        places = np.minimum(np.searchsorted(in_order, item_ids), len(in_order) - 1)
        found.append(order[places[in_order[places] == item_ids]])
    return IdLists.from_rows(found)


def _exact_rows(vectors: Float32, queries: Float32, k: int, exclude: IdLists | None) -> IdLists:
    """Each query's exact first ``k``."""
    rows = np.arange(len(vectors))
    found = exact_search(rows, vectors, queries, k=k, exclude=exclude)
    return IdLists(found.offsets, found.item_ids)
