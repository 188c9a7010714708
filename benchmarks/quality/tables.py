"""Rows of the quality benchmark into tables: means over seeds, compared at equal items scanned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.quality.afterwards import size_of
from benchmarks.quality.judge import Row
from benchmarks.quality.lists import SHARES
from benchmarks.quality.methods import EXACT, OURS

ENOUGH = (0.95, 0.99)
"""Of what a method finds with all its lists."""
KEYS = ["method", "form", "bytes_per_item", "refine"]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Table:
    """A title, and text in rows and columns."""

    title: str
    header: list[str]
    lines: list[list[str]]

    def markdown(self) -> str:
        """As Markdown; the title is a paragraph before it."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in (self.header, rule, *self.lines))
        return f"{self.title}\n\n{rows}\n"


def frame_of(rows: list[Row], task: str) -> pd.DataFrame:
    """The rows of one task: by size, then exact search, ours, the others."""
    frame = pd.DataFrame([row for row in rows if row["task"] == task])
    ranks = {EXACT: 0, OURS: 1}
    frame = frame.assign(
        rank=frame["family"].map(lambda family: ranks.get(family, len(ranks))),
        size=frame["bytes_per_item"].map(size_of),
    )
    order = ["size", "refine", "rank", "method", "form", "seed", "n_probes"]
    return frame.sort_values(order, kind="stable").drop(columns="rank").reset_index(drop=True)


def at_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """For every share of the items the row with the most probes that scans no more, if any.

    A column ``at`` names the share. Nothing is interpolated.
    """
    picked = []
    for share in SHARES:
        within = frame[frame["items_scanned"] <= share * frame["n_items"] * (1 + 1e-9)]
        most = within.sort_values("n_probes", kind="stable")
        most = most.drop_duplicates([*KEYS, "seed"], keep="last").sort_index()
        picked.append(most.assign(at=f"≤ {share:.0%}"))
    return pd.concat(picked)


def at_probes(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the doubling ladder; a column ``at`` names the number of probes."""
    probes = frame["n_probes"]
    is_doubling = (probes & (probes - 1)) == 0
    ladder = frame[(probes > 0) & (is_doubling | (frame["items_scanned"] >= frame["n_items"]))]
    return ladder.assign(at=ladder["n_probes"].astype(str))


def at_enough(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The fewest ``items`` scanned for a share of ``metric`` in all lists, of each method and seed.

    A column ``at`` names the share. Linear between the two numbers of probes around it.
    """
    lines = []
    for key, rows in frame.groupby([*KEYS, "seed"], sort=False):
        rows = rows.sort_values("n_probes")
        found, items = rows[metric].to_numpy(), rows["items_scanned"].to_numpy()
        for share in ENOUGH:
            first = int(np.argmax(found >= share * found[-1]))
            around = slice(max(0, first - 1), first + 1)
            needed = float(np.interp(share * found[-1], found[around], items[around]))
            lines.append([*key, f"{share:.0%}", needed])
    return pd.DataFrame(lines, columns=[*KEYS, "seed", "at", "items"])


def kept(frame: pd.DataFrame, metric: str, of: str | None = None) -> pd.Series:
    """``metric`` over that of exact search with the same seed: ``of`` a variant, None: its own."""
    best = frame[frame["family"] == EXACT].set_index(["variant", "seed"])[metric].to_dict()
    variants = frame["variant"] if of is None else [of] * len(frame)
    best_of_each = [best.get(key, np.nan) for key in zip(variants, frame["seed"], strict=True)]
    return frame[metric] / np.array(best_of_each)


def grid(title: str, picked: pd.DataFrame, column: str, form: Format) -> Table:
    """Methods by ``at``; a cell is the mean over seeds, and empty where a seed has no row."""
    columns = list(dict.fromkeys(picked["at"]))
    if all(name.isdigit() for name in columns):
        columns.sort(key=int)
    lines = []
    for key, rows in picked.groupby(KEYS, sort=False):
        cells = [
            cell(rows.loc[rows["at"] == name, column], rows["seed"].nunique(), form)
            for name in columns
        ]
        if any(cells):
            lines.append([*names(key), *cells])
    return Table(title, [*NAMES, *columns], lines)


NAMES = ("method", "codes", "bytes", "refine")


def names(key: tuple[str, str, float, int]) -> list[str]:
    """The first cells of a line, as ``NAMES`` heads them."""
    method, form, n_bytes, refine = key
    return [method, form, f"{n_bytes:g}", f"{refine:g}" if refine else ""]


def cell(values: pd.Series, n_seeds: int, form: Format) -> str:
    """Mean and spread (largest less smallest) of one value a seed; empty unless all have one."""
    if len(values) != n_seeds or not n_seeds or values.isna().any():
        return ""
    mean = form(values.mean())
    return mean if n_seeds == 1 else f"{mean} ± {form(values.max() - values.min())}"


def in_points(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"


def in_items(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def in_percent(value: float) -> str:
    """Two decimals."""
    return f"{100 * value:.2f}"
