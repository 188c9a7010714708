"""The queries that settings are tried on, and what they are judged by."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from merlin_poeem.arrays import (
    Float32,
    Int64,
    as_vectors,
    check_on_host,
    largest_value,
    read_only,
)
from merlin_poeem.evaluate import recall_at_k
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.search.item_set import ItemFilter, as_item_filter
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.searcher import Searcher, open_searcher
from merlin_poeem.tuning.settings import Setting

MOST_QUERIES = 1000
ROUNDS = 5


@dataclass(frozen=True, eq=False)
class Trial:
    """The queries of a sample, and what they are judged by."""

    searcher: Searcher
    queries: Float32
    k: int
    exclude: ItemFilter | None
    judge: IdLists
    """The right items of each query."""
    whole: float | None
    """What exact search has for quality; None where that is not known."""
    batch: int

    @classmethod
    def of(
        cls,
        index: Index,
        queries: Float32,
        k: int,
        relevant: Any,
        exact: FlatIndex | None,
        exclude: Any,
        batch: int | None,
        backend: str,
        seed: int,
    ) -> Trial:
        """Of a sample of ``queries``; arguments and errors are those of ``tune``."""
        if not index.n_items:
            raise ValueError("index: expected one that holds items, got none")
        largest = largest_value(index.metric)
        check_on_host("queries", queries)
        queries = as_vectors("queries", queries, index.dim, largest=largest)
        exclude = as_item_filter("exclude", exclude, len(queries))
        judge = None if relevant is None else IdLists.of("relevant", relevant, len(queries))
        if not len(queries):
            raise ValueError("queries: expected at least one, got none")
        chosen: Int64 = np.arange(len(queries))
        if judge is not None:
            chosen = np.flatnonzero(judge.lengths)
            if not len(chosen):
                raise ValueError("relevant: expected a query with a relevant item, got none")
        if len(chosen) > MOST_QUERIES:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(chosen, MOST_QUERIES, replace=False))
        queries, exclude = queries[chosen], _of_some(exclude, chosen)
        truth = _exact_results(index, exact, queries, k, exclude, backend)
        if truth is not None and not len(truth.item_ids):
            raise ValueError("exclude: expected items that a query may have, got all excluded")
        whole: float | None = 1.0
        if judge is not None:
            judge = _of_some(judge, chosen)
            whole = None if truth is None else recall_at_k(truth, judge, k)
            if whole == 0:
                raise ValueError(
                    "relevant: expected ids of the index, some of which exact search finds; it "
                    "finds none of them"
                )
        elif truth is None:
            raise ValueError(
                "exact: expected the items' exact vectors, as the index holds none and there are "
                "no relevant items to judge by; give exact=FlatIndex.from_vectors(...)"
            )
        else:
            judge = IdLists(truth.offsets, truth.item_ids)
        batch = len(queries) if batch is None else min(positive_int("batch", batch), len(queries))
        return cls(open_searcher(index, backend), queries, k, exclude, judge, whole, batch)

    def found(self, n_probes: int, n_results: int) -> Candidates:
        """The ``n_results`` best of each query, by their codes alone."""
        found = self.searcher.search(
            self.queries, k=n_results, n_probes=n_probes, refine=0, exclude=self.exclude
        )
        return found.to_host()

    def quality(self, found: Candidates) -> float:
        """Of results by any setting."""
        return recall_at_k(found, self.judge, self.k)

    def milliseconds(self, settings: Sequence[Setting]) -> list[float]:
        """Of one batch by each setting: medians over rounds in which they take turns."""
        times: list[list[float]] = [[] for _ in settings]
        batches = [slice(i, i + self.batch) for i in range(0, len(self.queries), self.batch)]
        for turn in range(-1, ROUNDS):
            part = batches[turn % len(batches)]
            for setting, of_setting in zip(settings, times, strict=True):
                started = time.perf_counter()
                self.searcher.search(
                    self.queries[part],
                    k=self.k,
                    n_probes=setting.n_probes,
                    refine=setting.refine,
                    exclude=_of_some(self.exclude, np.arange(len(self.queries))[part]),
                )
                if turn >= 0:  # the first round compiles, and fills caches
                    of_setting.append(1e3 * (time.perf_counter() - started))
        return [statistics.median(of_setting) for of_setting in times]


def _exact_results(
    index: Index,
    exact: FlatIndex | None,
    queries: Float32,
    k: int,
    exclude: ItemFilter | None,
    backend: str,
) -> Candidates | None:
    """The exact first ``k`` of each query; None where there are no exact vectors."""
    if exact is not None:
        if exact.metric != index.metric:
            raise ValueError(f"exact: expected metric {index.metric}, got {exact.metric}")
        same = np.array_equal(np.sort(index.item_ids), exact.item_ids)
        if not same:
            raise ValueError("exact: expected the items of the index, got others")
        return open_searcher(exact, backend).search(queries, k=k, exclude=exclude)
    if index.vectors is None:
        return None
    order = np.argsort(index.item_ids)
    rotated = FlatIndex(index.metric, read_only(index.item_ids[order]), index.vectors[order])
    queries_rot = index.quantization.rotate_queries(queries)
    return open_searcher(rotated, backend).search(queries_rot, k=k, exclude=exclude)


def _of_some(given: Any, queries: Int64) -> Any:
    """The lists of some queries; what holds for all of them as it is."""
    if not isinstance(given, IdLists):
        return given
    return IdLists.from_rows([given.row(i) for i in queries])
