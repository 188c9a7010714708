"""The right n_probes and refine for an index, measured on a sample of its queries."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from merlin_poeem.arrays import (
    Float32,
    Int64,
    as_vectors,
    check_on_host,
    largest_value,
    normalize,
    read_only,
    type_name,
)
from merlin_poeem.evaluate import items_scanned, recall_at_k
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.params import check_n_probes, count, positive_int
from merlin_poeem.search.item_set import ItemFilter, as_item_filter
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.searcher import Searcher, open_searcher
from merlin_poeem.search.second_look import refine_candidates

if TYPE_CHECKING:
    import pandas as pd

Cost = Literal["scanned", "time"]

# Not 1: it orders what is found, and finds no other items.
REFINES = (0, 2, 4, 8, 16)
MOST_QUERIES = 1000
ROUNDS = 5
# Results that the kernels return at most.
MOST_ON_DEVICE = 2048
# Of a mean of shares, in which a target may lie exactly.
ROUNDING = 1e-9
# How many times as many bytes a setting may read and still be the fastest.
SLACK = {"scanned": 1, "time": 3}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """One way to search an index, and what was measured of it."""

    n_probes: int
    refine: int
    quality: float
    """Of the exact first k, the share found; or recall@k of the relevant items, where those were
    given. The mean over queries."""
    items_scanned: float
    """Items whose codes a query reads, the mean."""
    bytes_read: float
    """Bytes of codes, scales and stored vectors that a query reads, the mean."""
    milliseconds: float | None
    """Of one batch, the median; None where it was not timed."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """What :func:`tune` found."""

    index: Index
    """The index given, with the setting that was chosen as its default."""
    setting: Setting
    """The one that was chosen."""
    settings: tuple[Setting, ...]
    """All that were measured, by ``n_probes`` and ``refine``."""
    target: float
    """The quality asked for: with ``relevant`` a share of what exact search has."""
    reached: bool
    """Whether ``setting`` has it."""

    def table(self) -> pd.DataFrame:
        """A row a setting; the columns are those of :class:`Setting`."""
        import pandas as pd

        columns = [field.name for field in fields(Setting)]
        return pd.DataFrame([asdict(setting) for setting in self.settings], columns=columns)

    def plot(self, path: str | Path) -> None:
        """A picture of quality against the bytes read, a curve for each ``refine``.

        Its kind is that of ``path``'s ending, such as ``.png``. Needs matplotlib.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for refine in sorted({setting.refine for setting in self.settings}):
            curve = [setting for setting in self.settings if setting.refine == refine]
            costs = [setting.bytes_read for setting in curve]
            axes.plot(costs, [s.quality for s in curve], marker=".", label=f"refine {refine}")
        chosen = self.setting
        label = f"chosen: n_probes {chosen.n_probes}, refine {chosen.refine}"
        axes.plot([chosen.bytes_read], [chosen.quality], "ko", fillstyle="none", ms=12, label=label)
        axes.axhline(self.target, color="0.6", linestyle="--", label=f"target {self.target:.3g}")
        axes.set_xscale("log")
        axes.set_xlabel("bytes read per query")
        axes.set_ylabel("quality")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=150)


def tune(
    index: Index,
    queries: Float32,
    k: int,
    *,
    target: float = 0.95,
    by: Cost = "scanned",
    within: float | None = None,
    batch: int | None = None,
    relevant: Any = None,
    exact: FlatIndex | None = None,
    exclude: Any = None,
    n_probes: Sequence[int] | None = None,
    refine: Sequence[int] | None = None,
    backend: str = "auto",
    seed: int = 0,
) -> Tuning:
    """The cheapest ``n_probes`` and ``refine`` with which ``index`` finds what exact search finds.

    Settings are tried from few lists on, until those with more of them can't be cheaper than one
    that has reached the target.

    Parameters
    ----------
    queries
        (n, dim) float32, raw space, such as the index will get; 1,000 of them, drawn by ``seed``,
        are enough and no more are used. Take held-out ones, never those of a test.
    k
        Results wanted.
    target
        Above 0, at most 1: of the exact first ``k`` the share to be found. With ``relevant``, the
        share that is to be kept of what exact search has for recall@k, or where there are no exact
        vectors, of the best of all settings.
    by
        What is cheap: few bytes read (``"scanned"``: the codes of the items scanned and the vectors
        looked at again), which is the same on every machine; or little ``"time"``, measured here.
    within
        In its place a budget, in milliseconds of a batch: the best quality within it is chosen,
        whether or not that is the target.
    batch
        Queries of a batch that is timed; None takes all of them at once. 1 times what a single
        request waits for.
    relevant
        Item ids that are right, one list a query: quality is then recall@k of these.
    exact
        The items' exact vectors; None takes those that the index holds.
    exclude
        As of :meth:`Searcher.search <merlin_poeem.Searcher.search>`, one list a query or ids for
        all.
    n_probes, refine
        What is tried; None: numbers of lists from 1 on, each about 1.4 times the one before, and 0,
        2, 4, 8 and 16 where the index holds vectors, else 0.
    backend
        As of :func:`~merlin_poeem.open_searcher`.

    Raises
    ------
    TypeError, ValueError
        What a search refuses; a target or budget out of range; neither ``relevant`` items nor exact
        vectors; a ``refine`` above 0 where the index holds none; an empty index.
    """
    if not isinstance(index, Index):
        raise TypeError(f"index: expected an Index, got {type_name(index)}")
    if not 0 < target <= 1:
        raise ValueError(f"target: expected above 0, at most 1; got {target}")
    if by not in ("scanned", "time"):
        raise ValueError(f"by: expected scanned or time, got {by!r}")
    if within is not None and not within > 0:
        raise ValueError(f"within: expected milliseconds above 0, got {within}")
    k, probes = positive_int("k", k), _probes(index, n_probes)
    refines = _refines(index, refine)
    trial = _Trial.of(index, queries, k, relevant, exact, exclude, batch, backend, seed)
    if refine is None and trial.searcher.on_device:
        refines = [each for each in refines if each * k <= MOST_ON_DEVICE]
    wanted = None if trial.whole is None else target * trial.whole - ROUNDING
    enough = _Enough(wanted, SLACK[by], within)
    settings = list(_measured(trial, probes, refines, enough))
    if wanted is None:
        wanted = target * max(setting.quality for setting in settings) - ROUNDING
    reaching = [setting for setting in settings if setting.quality >= wanted]
    if within is None and by == "time":
        settings = _timed(trial, settings, _cheapest_of_each_refine(reaching))
        reaching = [setting for setting in settings if setting.milliseconds is not None]
    chosen = _chosen(settings, reaching, by, within)
    in_time = within is None or (chosen.milliseconds or 0) <= within
    if not in_time:
        logger.warning(
            "tune: no setting takes at most %.4g ms; the fastest takes %.4g (n_probes = %d, "
            "refine = %d)",
            *(within, chosen.milliseconds, chosen.n_probes, chosen.refine),
        )
    elif chosen.quality < wanted:
        logger.warning(
            "tune: no setting reaches %.4f; the best of those allowed has %.4f (n_probes = %d, "
            "refine = %d)",
            *(wanted, chosen.quality, chosen.n_probes, chosen.refine),
        )
    reached = in_time and chosen.quality >= wanted
    tuned = index.with_n_probes(chosen.n_probes)
    if index.has_vectors:
        tuned = tuned.with_refine(chosen.refine)
    return Tuning(tuned, chosen, tuple(settings), wanted + ROUNDING, reached)


@dataclass(frozen=True, eq=False)
class _Trial:
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
    ) -> _Trial:
        if not index.n_items:
            raise ValueError("index: expected one that holds items, got none")
        largest = largest_value(index.metric)
        check_on_host("queries", queries)
        queries = as_vectors("queries", queries, index.dim, largest=largest)
        k = positive_int("k", k)
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


def _measured(
    trial: _Trial,
    probes: Sequence[int],
    refines: Sequence[int],
    enough: _Enough,
) -> Iterator[Setting]:
    """Settings from few lists on, until there are ``enough``."""
    from tqdm.auto import tqdm

    index = trial.searcher.index
    code_bytes = index.packed_codes.itemsize * index.packed_codes.shape[1]
    code_bytes += 0 if index.scales is None else 1
    vectors = index.vectors
    vector_bytes = 0 if vectors is None else vectors.nbytes / max(1, len(vectors))
    queries_rot = normalize(trial.queries) if index.metric == "cosine" else trial.queries
    queries_rot = index.quantization.rotate(queries_rot)
    for n_probes in tqdm(probes, desc="tune", unit="n_probes"):
        scanned = float(np.mean(items_scanned(index, trial.queries, n_probes)))
        by_codes = trial.found(n_probes, trial.k * max(1, *refines))
        of_these = []
        for refine in refines:
            found = _first(by_codes, trial.k * max(1, refine))
            if refine:
                found = refine_candidates(index, queries_rot, found, trial.k)
            looked_at = min(refine * trial.k, scanned)
            n_bytes = scanned * code_bytes + looked_at * vector_bytes
            quality = trial.quality(found)
            of_these.append(Setting(n_probes, refine, quality, scanned, n_bytes, None))
        if enough.within is not None:
            of_these = _timed(trial, of_these, of_these)
        yield from of_these
        if enough.after(of_these, scanned * code_bytes):
            return


class _Enough:
    """Tells when settings with more lists are of no use."""

    def __init__(self, wanted: float | None, slack: float, within: float | None) -> None:
        self.within = within
        self._wanted, self._slack = wanted, slack
        self._fewest = np.inf

    def after(self, settings: Sequence[Setting], n_bytes: float) -> bool:
        """Whether there are enough; ``settings`` are the latest, and read ``n_bytes`` of codes."""
        if self.within is not None:
            return min(setting.milliseconds or 0 for setting in settings) > self.within
        if self._wanted is None:
            return False
        reaching = [each.bytes_read for each in settings if each.quality >= self._wanted]
        self._fewest = min([self._fewest, *reaching])
        return n_bytes >= self._slack * self._fewest


def _timed(trial: _Trial, settings: Sequence[Setting], chosen: Sequence[Setting]) -> list[Setting]:
    """``settings``, those that are ``chosen`` with their time."""
    times = dict(zip(chosen, trial.milliseconds(chosen), strict=True))
    return [replace(each, milliseconds=times.get(each)) for each in settings]


def _chosen(
    settings: Sequence[Setting], reaching: Sequence[Setting], by: Cost, within: float | None
) -> Setting:
    if within is not None:
        allowed = [each for each in settings if (each.milliseconds or 0) <= within]
        fastest = min(settings, key=lambda each: each.milliseconds or 0)
        return max(allowed or [fastest], key=lambda each: (each.quality, -each.bytes_read))
    if not reaching:
        return max(settings, key=lambda each: (each.quality, -each.bytes_read))
    if by == "time":
        return min(reaching, key=lambda each: (each.milliseconds or 0, each.bytes_read))
    return min(reaching, key=lambda each: (each.bytes_read, each.refine))


def _cheapest_of_each_refine(reaching: Sequence[Setting]) -> list[Setting]:
    cheapest: dict[int, Setting] = {}
    for setting in reaching:
        cheapest.setdefault(setting.refine, setting)
    return list(cheapest.values())


def _probes(index: Index, given: Sequence[int] | None) -> list[int]:
    if given is not None:
        probes = sorted({check_n_probes(each, index.n_lists) for each in given})
        if not probes:
            raise ValueError("n_probes: expected at least one number, got none")
        return probes
    steps = 2 ** (np.arange(2 * int(np.log2(index.n_lists)) + 1) / 2)
    return sorted({*np.rint(steps).astype(int).tolist(), index.n_lists})


def _refines(index: Index, given: Sequence[int] | None) -> list[int]:
    if given is None:
        return list(REFINES) if index.has_vectors else [0]
    refines = sorted({count("refine", each) for each in given})
    if refines and refines[-1] and not index.has_vectors:
        raise ValueError(f"refine: expected 0, as the index holds no vectors; got {refines[-1]}")
    if not refines:
        raise ValueError("refine: expected at least one number, got none")
    return refines


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
    queries_rot = index.quantization.rotate(queries)
    return open_searcher(rotated, backend).search(queries_rot, k=k, exclude=exclude)


def _first(found: Candidates, k: int) -> Candidates:
    """The first ``k`` results of each query."""
    if found.counts.max(initial=0) <= k:
        return found
    places = np.arange(len(found.scores)) - np.repeat(found.offsets[:-1], found.counts)
    kept = places < k
    return Candidates(np.minimum(found.counts, k), found.scores[kept], found.item_ids[kept])


def _of_some(given: Any, queries: Int64) -> Any:
    """The lists of some queries; what holds for all of them as it is."""
    if not isinstance(given, IdLists):
        return given
    return IdLists.from_rows([given.row(i) for i in queries])
