"""The quality benchmark's tables as Markdown, and a picture for each task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.quality.afterwards import FAMILIES
from benchmarks.quality.choice import Choice, is_of, tried_table
from benchmarks.quality.judge import AGREEMENT, PLAIN, Row
from benchmarks.quality.methods import EXACT, LISTS
from benchmarks.quality.tables import (
    KEYS,
    NAMES,
    Table,
    at_enough,
    at_probes,
    at_shares,
    cell,
    frame_of,
    grid,
    in_items,
    in_percent,
    in_points,
    kept,
    names,
)
from benchmarks.quality.variants import TASKS
from merlin_poeem.plots import draw_quality

PLOTTED_SIZE = 9
HEAD = """# Quality at equal bytes and items scanned

All settings were chosen on the validation part, held out of the training pairs; the test pairs
were read once. Mean over seeds ± spread (largest less smallest; none of one seed). A share such as
`≤ 5%` is of the items: the row with the most probes whose mean items scanned per query stay within
it; empty where one probe of some seed scans more. `codes` is subspaces × bits, `bytes` what an item
takes with its scale, `refine` a second look at float16 vectors, which take bytes of their own.
`agreement_at_100` is the share found of the first 100 of exact search over the model's own vectors:
it says what an index loses, not which model is the better one.
`plain` vectors are those of a model trained without an index, today's practice.
"""


def report(rows: list[Row], choices: list[Choice], paired: list[dict[str, Any]]) -> str:
    """All tables."""
    parts = [HEAD]
    for task in TASKS:
        if any(row["task"] == task for row in rows):
            frame = frame_of(rows, task)
            seeds = ", ".join(map(str, sorted(frame["seed"].unique())))
            n_items, n_queries = (int(frame[name].max()) for name in ("n_items", "n_queries"))
            parts.append(f"## {task}\n\n{n_items:,} items, {n_queries:,} queries, seeds {seeds}.\n")
            chosen = [choice for choice in choices if choice["task"] == task]
            parts += _absent(chosen)
            of_task = [difference for difference in paired if difference["task"] == task]
            metrics = TASKS[task].metrics
            tables = [
                _exact_table(frame, metrics),
                chosen_table(frame, metrics, chosen),
                paired_table(of_task),
                *_tables(frame, metrics),
                tried_table(chosen),
            ]
            parts += [table.markdown() for table in tables]
    return "\n".join(parts)


def _absent(choices: list[Choice]) -> list[str]:
    """A line that names the baselines that are not compared with, if any."""
    absent = [name for name in FAMILIES if name not in {choice["family"] for choice in choices}]
    those = ", ".join(absent)
    told = f"Without {those}: on the validation part there was nothing to choose from.\n"
    return [told] if absent else []


def plot(rows: list[Row], task: str, path: Path) -> None:
    """The chief metric and the agreement against items scanned, at 9 bytes; seeds' means.

    No picture where no trial has such an index.
    """
    frame = frame_of(rows, task)
    codes = _codes_alone(frame)
    codes = codes[codes["size"] == PLOTTED_SIZE]
    if codes.empty:
        return
    picked = pd.concat([_exact_of(frame, PLAIN), at_probes(codes)])
    metrics = [TASKS[task].metrics[0], AGREEMENT]
    mean = picked.groupby(["method", "bytes_per_item", "n_probes"], sort=False)[
        [*metrics, "items_scanned"]
    ].mean()
    plotted = [
        {**row, "n_probes": row["n_probes"] or None}
        for row in mean.reset_index().to_dict("records")
    ]
    n_items = int(frame["n_items"].max())
    figure, both = plt.subplots(1, 2, figsize=(15, 6), layout="constrained")
    for axes, metric in zip(both, metrics, strict=True):
        # Exact search agrees with itself: a line at 1 would only press the others together.
        shown = [row for row in plotted if metric != AGREEMENT or row["n_probes"]]
        draw_quality(axes, shown, metric, n_items=n_items, highlight="ours")
        axes.get_legend().remove()
        axes.set_title(f"{task}: {n_items:,} items")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def paired_table(differences: list[dict[str, Any]]) -> Table:
    """Ours less each other, query by query, at the share of items that was chosen at."""
    lines = []
    for row in differences:
        seeds = row["by_seed"]
        lines.append([
            row["against"],
            f"{row['size']}",
            f"{row['refine'] or ''}",
            row["metric"],
            f"{row['mean']:+.4f}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            f"{min(seeds):+.4f} to {max(seeds):+.4f}",
        ])  # fmt: skip
    header = ["against", "bytes", "refine", "metric", "ours less it", "95 % interval", "seeds"]
    title = "Paired differences; the interval is the normal one of the mean over queries"
    return Table(title, header, lines)


def _tables(frame: pd.DataFrame, metrics: tuple[str, ...]) -> Iterator[Table]:
    with_codes = frame[frame["size"].notna() & (frame["family"] != LISTS)]
    codes = _codes_alone(frame)
    chief = metrics[0]
    exact = frame[frame["family"] == EXACT]
    probed, shared = at_probes(codes), at_shares(pd.concat([exact, with_codes]))
    yield grid(f"`{chief}` by n_probes, codes alone", probed, chief, in_points)
    for metric in (*metrics, AGREEMENT):
        yield grid(f"`{metric}` by share of items scanned", shared, metric, in_points)
    for metric in metrics:
        of_plain = shared.assign(kept=kept(shared, metric, PLAIN))
        yield grid(f"`{metric}` kept, % of the plain model's exact", of_plain, "kept", in_percent)
        of_own = shared.assign(kept=kept(shared, metric))
        yield grid(f"`{metric}` kept, % of the same vectors' exact", of_own, "kept", in_percent)
    yield _build_table(codes)
    lists = at_probes(frame[frame["family"] == LISTS])
    for metric in (chief, AGREEMENT):
        title = f"Lists only, float vectors in them: `{metric}` by n_probes"
        yield grid(title, lists, metric, in_points)
    without_look = pd.concat([codes, frame[frame["family"] == LISTS]])
    for metric in (chief, AGREEMENT):
        title = f"Items scanned for a share of `{metric}` in all lists, no second look"
        yield grid(title, at_enough(without_look, metric), "items", in_items)


def chosen_table(frame: pd.DataFrame, metrics: tuple[str, ...], choices: list[Choice]) -> Table:
    """What was chosen, at the share of items that it was chosen at; for each second look its own.

    What was chosen for another second look is left out: here nobody is to choose.
    """
    rows = frame.to_dict("records")
    is_chosen = np.array([any(is_of(row, choice) for choice in choices) for row in rows])
    at_share = frame[frame["values"].notna().to_numpy() & is_chosen]
    lines = []
    for key, rows in at_share.groupby(KEYS, sort=False):
        n_seeds = rows["seed"].nunique()
        lines.append([
            *names(key),
            f"{rows['vector_bytes'].iloc[0]:g}" if rows["refine"].iloc[0] else "",
            f"{100 * (rows['items_scanned'] / rows['n_items']).mean():.1f} %",
            *(cell(rows[metric], n_seeds, in_points) for metric in (*metrics, AGREEMENT)),
        ])  # fmt: skip
    header = [*NAMES, "bytes of vectors", "scanned", *metrics, AGREEMENT]
    return Table("At the share of items that settings were chosen at", header, lines)


def _codes_alone(frame: pd.DataFrame) -> pd.DataFrame:
    """Without float vectors of any kind."""
    return frame[frame["size"].notna() & (frame["refine"] == 0)]


def _exact_of(frame: pd.DataFrame, variant: str) -> pd.DataFrame:
    return frame[(frame["family"] == EXACT) & (frame["variant"] == variant)]


def _exact_table(frame: pd.DataFrame, metrics: tuple[str, ...]) -> Table:
    lines = []
    for method, rows in frame[frame["family"] == EXACT].groupby("method", sort=False):
        n_seeds = rows["seed"].nunique()
        lines.append([method, *(cell(rows[metric], n_seeds, in_points) for metric in metrics)])
    return Table("Exact search over float vectors", ["method", *metrics], lines)


def _build_table(frame: pd.DataFrame) -> Table:
    """Balance, codewords and seconds; they do not depend on the probes."""
    lines = []
    for (method, form), rows in frame.groupby(["method", "form"], sort=False):
        facts = rows.drop_duplicates("seed")
        lines.append([method, form, *_build_cells(facts)])
    return Table("What was built; seconds are of this machine", ["method", "codes", *_BUILT], lines)


_BUILT = ("max/mean list, worst seed", "empty lists", "dead codewords, %", "build s", "training s")


def _build_cells(facts: pd.DataFrame) -> list[str]:
    return [
        f"{facts['max_over_mean_list'].max():.2f}",
        f"{facts['empty_lists'].max():.0f}",
        f"{100 * facts['dead_codewords'].max():.2f}",
        f"{facts['build_seconds'].mean():.1f}",
        f"{facts['training_seconds'].mean():.0f}",
    ]
