"""Judge a trial: every method at every number of probes, a row each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.quality.methods import (
    SIZES,
    Method,
    built_by_faiss,
    exact,
    kmeans_lists,
    learned,
    learned_by_inner_product,
    learned_lists,
)
from benchmarks.quality.relevance import MANY, Relevance
from benchmarks.quality.scann_method import built_by_scann
from benchmarks.quality.trial import ROWS, Trial, load_trial, whole_trials, write_json
from benchmarks.quality.variants import TASKS
from merlin_poeem import Candidates, IdLists
from workflows.comparison import versions

Row = dict[str, Any]

# Trials whose float vectors others build an index from: the practice of today, and the same
# vectors that ours has.
SOURCES = ("plain", "ours-8")


def judge_all(
    results: Path,
    sizes: tuple[int, ...] = SIZES,
    *,
    n_queries: int | None = None,
    again: bool = False,
) -> list[Row]:
    """Rows of every whole trial; those judged before in the same way are read, unless ``again``.

    ``sizes`` are those of what is built afterwards, in bytes an item. With ``n_queries``, that many
    of a trial's queries are judged by, the same ones in every trial of a task.
    """
    folders = whole_trials(results)
    if not folders:
        raise FileNotFoundError(
            f"{results}: expected trials, got none; run benchmarks.quality.training first"
        )
    how = {"sizes": list(sizes), "n_queries": n_queries}
    rows = []
    for number, folder in enumerate(folders, 1):
        path = folder / ROWS
        was_judged = not again and _was_judged(path, how)
        note = ": judged already" if was_judged else ""
        print(f"{number} of {len(folders)}: {folder.parent.name} {folder.name}{note}", flush=True)
        if not was_judged:
            trial = load_trial(folder)
            if n_queries is not None:
                trial = trial.of_some_queries(n_queries)
            found = {"rows": judge(trial, sizes), "how": how, "versions": versions()}
            write_json(path, found)
        rows += json.loads(path.read_text())["rows"]
    return rows


def _was_judged(path: Path, how: dict[str, Any]) -> bool:
    return path.is_file() and json.loads(path.read_text()).get("how") == how


def judge(trial: Trial, sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Rows of one trial; ``sizes`` are the baselines', in bytes an item.

    Of exact search there is one, with ``n_probes`` 0.
    """
    best = exact(trial)
    found = best.search(0)
    truth = Relevance.of_each(IdLists(found.offsets, found.item_ids))
    rows = [_row(trial, best, 0, found, truth)]
    for method in methods_of(trial, sizes):
        rows += [
            _row(trial, method, n_probes, method.search(n_probes), truth)
            for n_probes in method.lists.probes()
        ]
    return rows


def methods_of(trial: Trial, sizes: tuple[int, ...]) -> Iterator[Method]:
    """What is compared on a trial, other than exact search; one at a time, as each takes memory."""
    if trial.index is not None:
        yield learned(trial, trial.index)
        if trial.index.params.metric == "cosine":
            yield learned_by_inner_product(trial, trial.index)
        yield learned_lists(trial, trial.index)
    if trial.name.variant in SOURCES:
        yield from built_by_faiss(trial, sizes)
        yield kmeans_lists(trial)
        try:
            yield from built_by_scann(trial, sizes)
        except ImportError as error:
            print(f"    ScaNN left out: {error}")


def _row(trial: Trial, method: Method, n_probes: int, found: Candidates, truth: Relevance) -> Row:
    quality = trial.relevance.quality(found)
    lists = method.lists
    n_items = len(trial.item_ids)
    return {
        **vars(trial.name),
        "method": method.name,
        "form": method.form,
        "n_probes": n_probes,
        "bytes_per_item": method.bytes_per_item,
        "n_items": n_items,
        "n_queries": len(trial.queries),
        "items_scanned": float(n_items if lists is None else lists.scanned[n_probes - 1]),
        **{metric: quality[metric] for metric in TASKS[trial.name.task].metrics},
        f"agreement_at_{MANY}": truth.share_found(found),
        **({} if lists is None else lists.balance()),
        **method.facts,
        "build_seconds": method.build_seconds,
        "training_seconds": trial.facts["seconds"],
    }
