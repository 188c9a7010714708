"""The right n_probes and refine for an index, measured on a sample of its queries."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from merlin_poeem.arrays import Float32, normalize, type_name
from merlin_poeem.evaluate import items_scanned
from merlin_poeem.frames.item_ids import lists_by_id
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import MOST_BY_DEFAULT, Index
from merlin_poeem.progress import Progress
from merlin_poeem.quantization.params import check_n_probes, count, positive_int
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.second_look import refine_candidates
from merlin_poeem.tuning.settings import Setting, Tuning
from merlin_poeem.tuning.trial import Trial

Cost = Literal["scanned", "time"]

# Not 1: it orders what is found, and finds no other items.
REFINES = (0, 2, 4, 8, 16)
# Of a mean of shares, in which a target may lie exactly.
ROUNDING = 1e-9
# How many times as many bytes a setting may read and still be the fastest.
SLACK = {"scanned": 1, "time": 3}

logger = logging.getLogger(__name__)


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
    progress: bool = True,
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
        Item ids that are right, one list a query: quality is then recall@k of these. Of an index
        with keys these, or ids.
    exact
        The items' exact vectors, under the same ids or keys; None takes those that the index holds.
    exclude
        As of :meth:`Searcher.search <merlin_poeem.Searcher.search>`, one list a query or ids for
        all; or keys.
    n_probes, refine
        What is tried; None: numbers of lists from 1 on, each about 1.4 times the one before, and 0,
        2, 4, 8 and 16 where the index holds vectors, else 0.
    backend
        As of :func:`~merlin_poeem.open_searcher`.
    progress
        Whether work of more than two seconds shows a bar on stderr.

    Raises
    ------
    TypeError, ValueError
        What a search refuses; a target or budget out of range; ``exact`` with keys where the index
        has none, or without where it has some; neither ``relevant`` items nor exact
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
    relevant, exclude = (lists_by_id(index.item_keys, given) for given in (relevant, exclude))
    exact = _numbered_as(index, exact)
    trial = Trial.of(index, queries, k, relevant, exact, exclude, batch, backend, seed)
    if refine is None and trial.searcher.on_device:
        refines = [each for each in refines if each * k <= MOST_BY_DEFAULT]
    wanted = None if trial.whole is None else target * trial.whole - ROUNDING
    enough = _Enough(wanted, SLACK[by], within)
    with Progress("tune", len(probes), "n_probes", shown=progress) as bar:
        settings = list(_measured(trial, probes, refines, enough, bar))
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


def _measured(
    trial: Trial,
    probes: Sequence[int],
    refines: Sequence[int],
    enough: _Enough,
    bar: Progress,
) -> Iterator[Setting]:
    """Settings from few lists on, until there are ``enough``."""
    index = trial.searcher.index
    code_bytes = index.packed_codes.itemsize * index.packed_codes.shape[1]
    code_bytes += 0 if index.scales is None else 1
    vectors = index.vectors
    vector_bytes = 0 if vectors is None else vectors.nbytes / max(1, len(vectors))
    queries_rot = normalize(trial.queries) if index.metric == "cosine" else trial.queries
    queries_rot = index.quantization.rotate_queries(queries_rot)
    for n_probes in probes:
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
        bar.update()
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


def _timed(trial: Trial, settings: Sequence[Setting], chosen: Sequence[Setting]) -> list[Setting]:
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


def _numbered_as(index: Index, exact: FlatIndex | None) -> FlatIndex | None:
    """``exact`` by the ids that ``index`` has for its items, where both have keys."""
    if exact is None or not (index.has_item_keys or exact.has_item_keys):
        return exact
    if index.item_keys is None or exact.item_keys is None:
        has = "item keys" if index.has_item_keys else "no item keys"
        raise ValueError(f"exact: expected one with {has}, as the index, got another")
    item_ids = index.item_keys.ids_of(exact.item_keys.keys_of(exact.item_ids))
    order = np.argsort(item_ids)
    return FlatIndex(exact.metric, item_ids[order], exact.vectors[order])


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


def _first(found: Candidates, k: int) -> Candidates:
    """The first ``k`` results of each query."""
    if found.counts.max(initial=0) <= k:
        return found
    places = np.arange(len(found.scores)) - np.repeat(found.offsets[:-1], found.counts)
    kept = places < k
    return Candidates(np.minimum(found.counts, k), found.scores[kept], found.item_ids[kept])
