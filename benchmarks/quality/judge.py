"""Judge a trial: every method at every number of probes and every second look, a row each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.afterwards import FAISS, FAISS_SCALES, FIT, SCANN, SIZES, Way, ways
from benchmarks.quality.faiss_methods import built_by_faiss
from benchmarks.quality.fit_method import built_by_fit
from benchmarks.quality.lists import probes_within
from benchmarks.quality.methods import Method, exact, kmeans_lists, learned, learned_lists
from benchmarks.quality.parts import VALIDATION
from benchmarks.quality.permit import Permit, require_permit
from benchmarks.quality.relevance import MANY, Relevance
from benchmarks.quality.scann_method import built_by_scann
from benchmarks.quality.second_look import first_of, second_look, vector_bytes
from benchmarks.quality.trial import (
    ROWS,
    Trial,
    load_trial,
    read_facts,
    whole_trials,
    write_json,
)
from benchmarks.quality.variants import TASKS
from merlin_poeem import Candidates, IdLists
from workflows.comparison import versions

Row = dict[str, Any]
Values = dict[str, NDArray[np.float64]]

PLAIN = "plain"
"""The variant whose vectors others build an index from: the practice of today."""
REFINES = (0, 2, 4)
PER_QUERY = "per_query.npz"
AGREEMENT = f"agreement_at_{MANY}"
BUILDERS: dict[str, Callable[[Trial, Way], Method]] = {
    FAISS: built_by_faiss,
    FAISS_SCALES: built_by_faiss,
    FIT: built_by_fit,
    SCANN: built_by_scann,
}


@dataclass(frozen=True)
class Plan:
    """What is judged of every trial."""

    ways: Callable[[Trial], Iterable[Way]]
    """What is built from the plain vectors."""
    at_all_probes: bool
    """A ladder of probes and lists alone; if not, the share of items that is chosen at."""
    how: dict[str, Any]
    """JSON values that tell ``ways`` from others."""

    def how_of(self, folder: Path) -> dict[str, Any]:
        """By this a trial's rows are known again, and not judged anew."""
        is_plain = read_facts(folder)["variant"] == PLAIN
        return {"at_all_probes": self.at_all_probes, **(self.how if is_plain else {})}


def to_choose(sizes: Iterable[int] = SIZES) -> Plan:
    """All that is chosen among, at the task's share of items."""
    sizes = list(sizes)

    def all_ways(trial: Trial) -> Iterator[Way]:
        for size in sizes:
            yield from ways(trial.item_vectors.shape[1], size)

    return Plan(all_ways, at_all_probes=False, how={"sizes": sizes})


def judge_all(
    results: Path,
    plan: Plan,
    *,
    part: str = VALIDATION,
    permit: Permit | None = None,
    n_queries: int | None = None,
    again: bool = False,
) -> list[Row]:
    """Rows of every whole trial of a part; those judged before in the same way are read.

    With ``n_queries``, that many of a trial's queries are judged by, the same ones in every trial
    of a task. ``PermissionError`` for the part of test pairs without a permit to read them.
    """
    require_permit(part, permit)
    folders = whole_trials(results, part)
    if not folders:
        raise FileNotFoundError(
            f"{results}: expected trials, got none; run benchmarks.quality.training first"
        )
    rows = []
    for number, folder in enumerate(folders, 1):
        path = folder / ROWS
        how = plan.how_of(folder) | {"n_queries": n_queries}
        was_judged = not again and _was_judged(path, how)
        note = ": judged already" if was_judged else ""
        print(f"{number} of {len(folders)}: {folder.parent.name} {folder.name}{note}", flush=True)
        if not was_judged:
            trial = load_trial(folder, permit)
            if n_queries is not None:
                trial = trial.of_some_queries(n_queries)
            found, values = judge(trial, plan)
            np.savez(folder / PER_QUERY, **values)
            write_json(path, {"rows": found, "how": how, "versions": versions()})
        rows += json.loads(path.read_text())["rows"]
    return rows


def _was_judged(path: Path, how: dict[str, Any]) -> bool:
    return path.is_file() and json.loads(path.read_text()).get("how") == how


def judge(trial: Trial, plan: Plan) -> tuple[list[Row], Values]:
    """Rows of one trial, and the values of each query for the rows at the task's share.

    Of exact search there is one, with ``n_probes`` 0. A row's ``values`` is the key of its queries'
    values, ``<key>:<metric>``; None where they are not kept.
    """
    best = exact(trial)
    found = best.search(0, MANY)
    truth = Relevance.of_each(IdLists(found.offsets, found.item_ids))
    rows: list[Row] = []
    values: Values = {}

    def add(method: Method, n_probes: int, refine: int, found: Candidates, is_kept: bool) -> None:
        each = _per_query(trial, found, truth)
        key = str(len(rows)) if is_kept else None
        if is_kept:
            values.update({f"{key}:{metric}": kept for metric, kept in each.items()})
        means = {metric: float(kept.mean()) for metric, kept in each.items()}
        rows.append({**_facts(trial, method, n_probes, refine), **means, "values": key})

    add(best, 0, 0, found, is_kept=True)
    for method in methods_of(trial, plan):
        at_share = probes_at_share(trial, method)
        for n_probes in method.lists.probes() if plan.at_all_probes else at_share[:1]:
            for refine, some in looks(trial, method, n_probes):
                add(method, n_probes, refine, some, is_kept=n_probes in at_share)
    return rows, values


def looks(trial: Trial, method: Method, n_probes: int) -> Iterator[tuple[int, Candidates]]:
    """What one search finds with every second look, the first without any."""
    refines = REFINES if method.has_codes else (0,)
    found = method.search(n_probes, MANY * max(1, *refines))
    for refine in refines:
        some = first_of(found, max(1, refine) * MANY)
        yield refine, first_of(second_look(trial, some), MANY) if refine else some


def probes_at_share(trial: Trial, method: Method) -> list[int]:
    """The most probes that scan no more than the task's share of items; empty where one does."""
    limit = TASKS[trial.name.task].share * len(trial.item_ids)
    n_probes = probes_within(method.lists.scanned, limit)
    return [n_probes] if n_probes else []


def methods_of(trial: Trial, plan: Plan) -> Iterator[Method]:
    """What is compared on a trial, other than exact search; one at a time, as each takes memory."""
    if trial.index is not None:
        yield learned(trial, trial.index)
        if plan.at_all_probes:
            yield learned_lists(trial, trial.index)
    if trial.name.variant != PLAIN:
        return
    if plan.at_all_probes:
        yield from (kmeans_lists(trial, spherical=spherical) for spherical in (False, True))
    for way in plan.ways(trial):
        try:
            yield BUILDERS[way.family](trial, way)
        except ImportError as error:
            print(f"    {way.family} left out: {error}")


def _per_query(trial: Trial, found: Candidates, truth: Relevance) -> Values:
    quality = trial.relevance.per_query(found)
    wanted = {metric: quality[metric] for metric in TASKS[trial.name.task].metrics}
    return {**wanted, AGREEMENT: truth.share_found(found)}


def _facts(trial: Trial, method: Method, n_probes: int, refine: int) -> Row:
    lists = method.lists
    n_items = len(trial.item_ids)
    return {
        **vars(trial.name),
        "method": method.name,
        "family": method.family,
        "knobs": method.knobs,
        "form": method.form,
        "n_probes": n_probes,
        "bytes_per_item": method.bytes_per_item,
        "refine": refine,
        "vector_bytes": vector_bytes(trial) if refine else 0,
        "n_items": n_items,
        "n_queries": len(trial.queries),
        "items_scanned": float(n_items if lists is None else lists.scanned[n_probes - 1]),
        **({} if lists is None else lists.balance()),
        **method.facts,
        "build_seconds": method.build_seconds,
        "training_seconds": trial.facts["seconds"],
    }
