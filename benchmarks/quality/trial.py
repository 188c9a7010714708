"""A trial: one trained model as files, so that training and judging need not share an environment.

``RESULTS/quality/trials/<part>/<task>/<variant>-<seed>/`` holds the vectors of both towers, the
learned index, and what is right. ``trial.json`` comes last and at once: where it is, the trial is
whole.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.parts import VALIDATION
from benchmarks.quality.permit import Permit, require_permit
from benchmarks.quality.relevance import Relevance
from merlin_poeem import IdLists, Index, load_index, save_index
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.quantization.params import positive_int

FACTS = "trial.json"
ROWS = "rows.json"
ARRAYS = ("queries", "item_ids", "item_vectors", "item_frequencies", "train_queries")


@dataclass(frozen=True)
class TrialName:
    """Which model: what it was trained for, in which way, from which seed."""

    task: str
    variant: str
    """By its name in ``variants.VARIANTS``, with options after it: ``ours-8:commitment=0.5``."""
    seed: int
    part: str = VALIDATION
    """Which pairs it is judged by, see :mod:`~benchmarks.quality.parts`."""

    def __str__(self) -> str:
        return f"{self.task} {self.variant} seed {self.seed} ({self.part})"

    def folder(self, results: Path) -> Path:
        """Where its files are."""
        variant = re.sub("[:,]", "+", self.variant)
        return results / "trials" / self.part / self.task / f"{variant}-{self.seed}"


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
    item_frequencies: Int64
    """(n_items,) int64, training pairs of each item."""
    train_queries: Float32
    """(n, dim) float32, the query tower's output for users that it was trained on."""
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
    for array in ARRAYS:
        np.save(folder / f"{array}.npy", getattr(trial, array))
    np.save(folder / "groups.npy", trial.relevance.groups)
    _save_lists(folder / "relevant.npz", trial.relevance.lists)
    if trial.exclude is not None:
        _save_lists(folder / "exclude.npz", trial.exclude)
    if trial.index is not None:
        save_index(trial.index, folder / "items.index")
    held = {"has_index": trial.index is not None, "has_exclude": trial.exclude is not None}
    write_json(folder / FACTS, {**vars(trial.name), **held, **trial.facts})
    return folder


def load_trial(folder: Path, permit: Permit | None = None) -> Trial:
    """The inverse of :func:`save_trial`.

    ``FileNotFoundError`` where the trial is not whole, ``PermissionError`` where it holds test
    pairs and there is no permit to read them.
    """
    facts = read_facts(folder)
    if facts is None:
        raise FileNotFoundError(f"{folder}: expected a whole trial with {FACTS}, got none")
    require_permit(facts["part"], permit)
    return Trial(
        name=TrialName(facts["task"], facts["variant"], facts["seed"], facts["part"]),
        relevance=Relevance(_load_lists(folder / "relevant.npz"), np.load(folder / "groups.npy")),
        exclude=_load_lists(folder / "exclude.npz") if facts["has_exclude"] else None,
        index=load_index(folder / "items.index") if facts["has_index"] else None,
        facts=facts,
        **{array: np.load(folder / f"{array}.npy") for array in ARRAYS},
    )


def read_facts(folder: Path) -> dict[str, Any] | None:
    """``trial.json``; None where the trial is not whole."""
    path = folder / FACTS
    return json.loads(path.read_text()) if path.is_file() else None


def whole_trials(results: Path, part: str = VALIDATION) -> list[Path]:
    """The folders of all whole trials of a part, by name."""
    return sorted(path.parent for path in (results / "trials" / part).glob(f"*/*/{FACTS}"))


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
