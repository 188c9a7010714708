"""A trial: one trained model as files, so that training and judging need not share an environment.

``RESULTS/quality/trials/<task>/<variant>-<seed>/`` holds the vectors of both towers, the learned
index, and what is right. ``trial.json`` comes last and at once: where it is, the trial is whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.relevance import Relevance
from merlin_poeem import IdLists, Index, load_index, save_index
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.quantization.params import positive_int

FACTS = "trial.json"
ROWS = "rows.json"


@dataclass(frozen=True)
class TrialName:
    """Which model: what it was trained for, in which way, from which seed."""

    task: str
    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.variant} seed {self.seed}"

    def folder(self, results: Path) -> Path:
        """Where its files are."""
        return results / "trials" / self.task / f"{self.variant}-{self.seed}"


@dataclass(frozen=True, eq=False)
class Trial:
    """What a trained model left."""

    name: TrialName
    queries: Float32
    """(n_queries, dim) float32, the query tower's output."""
    item_ids: Int64
    """(n_items,) int64."""
    item_vectors: Float32
    """(n_items, dim) float32, the item tower's output without the quantizer."""
    relevance: Relevance
    exclude: IdLists | None
    """Per query, the items never to be returned."""
    index: Index | None
    """What the model learned; None of a model without a quantizer."""
    facts: dict[str, Any]
    """JSON values: at least ``n_lists``, the ``recipe`` of the training and its ``seconds``."""

    def of_some_queries(self, n_queries: int) -> Trial:
        """The trial with ``n_queries`` of its queries, drawn at random, or all where it has fewer.

        Trials with the same queries are left with the same ones. ``ValueError`` below 1.
        """
        rng = np.random.default_rng(0)
        n_kept = min(positive_int("queries", n_queries), len(self.queries))
        kept = np.sort(rng.choice(len(self.queries), n_kept, replace=False))
        exclude = self.exclude
        if exclude is not None:
            exclude = IdLists.from_rows([exclude.row(i) for i in kept])
        relevance = Relevance(self.relevance.lists, self.relevance.groups[kept])
        return replace(self, queries=self.queries[kept], relevance=relevance, exclude=exclude)


def quality_folder(results: Path, quick: bool) -> Path:
    """Where trials and tables lie; quick ones never among the others."""
    return results / ("quality-quick" if quick else "quality")


def save_trial(trial: Trial, results: Path) -> Path:
    """Write the files; returns their folder."""
    folder = trial.name.folder(results)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (FACTS, ROWS):
        (folder / name).unlink(missing_ok=True)
    np.save(folder / "queries.npy", trial.queries)
    np.save(folder / "item_ids.npy", trial.item_ids)
    np.save(folder / "item_vectors.npy", trial.item_vectors)
    np.save(folder / "groups.npy", trial.relevance.groups)
    _save_lists(folder / "relevant.npz", trial.relevance.lists)
    if trial.exclude is not None:
        _save_lists(folder / "exclude.npz", trial.exclude)
    if trial.index is not None:
        save_index(trial.index, folder / "items.index")
    held = {"has_index": trial.index is not None, "has_exclude": trial.exclude is not None}
    write_json(folder / FACTS, {**vars(trial.name), **held, **trial.facts})
    return folder


def load_trial(folder: Path) -> Trial:
    """The inverse of :func:`save_trial`; ``FileNotFoundError`` where the trial is not whole."""
    facts = read_facts(folder)
    if facts is None:
        raise FileNotFoundError(f"{folder}: expected a whole trial with {FACTS}, got none")
    return Trial(
        TrialName(facts["task"], facts["variant"], facts["seed"]),
        *(np.load(folder / f"{name}.npy") for name in ("queries", "item_ids", "item_vectors")),
        Relevance(_load_lists(folder / "relevant.npz"), np.load(folder / "groups.npy")),
        _load_lists(folder / "exclude.npz") if facts["has_exclude"] else None,
        load_index(folder / "items.index") if facts["has_index"] else None,
        facts,
    )


def read_facts(folder: Path) -> dict[str, Any] | None:
    """``trial.json``; None where the trial is not whole."""
    path = folder / FACTS
    return json.loads(path.read_text()) if path.is_file() else None


def whole_trials(results: Path) -> list[Path]:
    """The folders of all whole trials, by name."""
    return sorted(path.parent for path in (results / "trials").glob(f"*/*/{FACTS}"))


def write_json(path: Path, values: Any) -> None:
    """Write so that ``path`` is either as before or whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(partial, path)


def _save_lists(path: Path, lists: IdLists) -> None:
    np.savez(path, offsets=lists.offsets, values=lists.values)


def _load_lists(path: Path) -> IdLists:
    with np.load(path) as arrays:
        return IdLists(arrays["offsets"], arrays["values"])
