"""The quality benchmark's tables as Markdown, and a picture for each task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.quality.judge import Row
from benchmarks.quality.relevance import MANY
from benchmarks.quality.tables import (
    ABLATION,
    LISTS,
    Table,
    at_probes,
    at_shares,
    cell,
    frame_of,
    grid,
    in_percent,
    in_points,
    is_exact,
    kept,
)
from benchmarks.quality.variants import TASKS
from merlin_poeem.plots import draw_quality

AGREEMENT = f"agreement_at_{MANY}"
BASE = "ours-8"
PLOTTED_FORMS = {"8x8", "16x4"}
HEAD = """# Quality at equal bytes and items scanned

Mean over seeds ± spread (largest less smallest; none of one seed). A share such as `≤ 5%` is of
the items: the row with the most probes whose mean items scanned per query stay within it; empty
where one probe of some seed scans more. `codes` is subspaces × bits. Vectors that an index was
built from are named: `plain` are those of a model trained without an index, today's practice.
"""


def report(rows: list[Row]) -> str:
    """All tables."""
    parts = [HEAD]
    for task in TASKS:
        if any(row["task"] == task for row in rows):
            frame = frame_of(rows, task)
            seeds = ", ".join(map(str, sorted(frame["seed"].unique())))
            n_items, n_queries = (int(frame[name].max()) for name in ("n_items", "n_queries"))
            parts.append(f"## {task}\n\n{n_items:,} items, {n_queries:,} queries, seeds {seeds}.\n")
            parts += [table.markdown() for table in _tables(frame, TASKS[task].metrics)]
    return "\n".join(parts)


def plot(rows: list[Row], task: str, path: Path) -> None:
    """The chief metric and the agreement against items scanned, at 8 bytes of codes; seeds' means.

    A scale is a byte more. No picture where no trial has such an index.
    """
    frame = _main(frame_of(rows, task))
    is_plotted = frame["form"].isin(PLOTTED_FORMS) & frame["bytes_per_item"].isin([8, 9])
    if not is_plotted.any():
        return
    picked = pd.concat([_exact_of(frame, "plain"), at_probes(frame[is_plotted])])
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


def _tables(frame: pd.DataFrame, metrics: tuple[str, ...]) -> Iterator[Table]:
    main = _main(frame)
    chief = metrics[0]
    probed, shared = at_probes(main), at_shares(main)
    yield _exact_table(frame, metrics)
    yield grid(f"`{chief}` by n_probes", probed, chief, in_points)
    for metric in (*metrics, AGREEMENT):
        yield grid(f"`{metric}` by share of items scanned", shared, metric, in_points)
    for metric in metrics:
        of_plain = shared.assign(kept=kept(shared, metric, "plain"))
        yield grid(f"`{metric}` kept, % of the plain model's exact", of_plain, "kept", in_percent)
        of_own = shared.assign(kept=kept(shared, metric))
        yield grid(f"`{metric}` kept, % of the same vectors' exact", of_own, "kept", in_percent)
    yield _build_table(main)
    if frame["method"].eq(BASE).any():
        yield _ablation_table(frame, chief)
    lists = at_probes(frame[frame["method"].str.contains(LISTS)])
    for metric in (chief, AGREEMENT):
        title = f"Lists only, float vectors in them: `{metric}` by n_probes"
        yield grid(title, lists, metric, in_points)


def _main(frame: pd.DataFrame) -> pd.DataFrame:
    """Without ablations and without what has only lists."""
    aside = frame["variant"].str.contains(ABLATION) | frame["method"].str.contains(LISTS)
    return frame[~aside]


def _exact_of(frame: pd.DataFrame, variant: str) -> pd.DataFrame:
    return frame[frame["method"].map(is_exact) & (frame["variant"] == variant)]


def _exact_table(frame: pd.DataFrame, metrics: tuple[str, ...]) -> Table:
    lines = []
    for method, rows in frame[frame["method"].map(is_exact)].groupby("method", sort=False):
        n_seeds = rows["seed"].nunique()
        lines.append([method, *(cell(rows[metric], n_seeds, in_points) for metric in metrics)])
    return Table("Exact search over float vectors", ["method", *metrics], lines)


def _build_table(frame: pd.DataFrame) -> Table:
    """Balance, codewords and seconds; they do not depend on the probes."""
    lines = []
    built = frame[~frame["method"].map(is_exact)].groupby(["method", "form"], sort=False)
    for (method, form), rows in built:
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


def _ablation_table(frame: pd.DataFrame, chief: str) -> Table:
    """Ours with each part removed, at the same 8 bytes; few probes and all of them."""
    is_ablation = frame["method"].str.contains(ABLATION)
    picked = at_probes(frame[is_ablation | frame["method"].isin([BASE, "poeem-8"])])
    numbers = sorted(picked["n_probes"].unique())
    few, all_lists = str(numbers[0]), str(numbers[-1])
    header = [
        "variant", "own exact", *(f"{name}, n_probes {at}"
        for name in (chief, "agreement") for at in (few, all_lists)), *_BUILT,
    ]  # fmt: skip
    lines = []
    for variant, rows in picked.groupby("method", sort=False):
        n_seeds = rows["seed"].nunique()
        exact = _exact_of(frame, variant)[chief]
        cells = [
            cell(rows.loc[rows["at"] == at, metric], n_seeds, in_points)
            for metric in (chief, AGREEMENT)
            for at in (few, all_lists)
        ]
        facts = _build_cells(rows.drop_duplicates("seed"))
        lines.append([variant, cell(exact, n_seeds, in_points), *cells, *facts])
    return Table("Ablations", header, lines)
