"""What each method finds, against what a search by it costs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from merlin_poeem.plots.files import new_axes, save
from merlin_poeem.plots.labels import PlacedLabels
from merlin_poeem.plots.style import LINES, MARKERS, OTHERS, OWN, REFERENCE

Row = Mapping[str, Any]

SHARE = "share of the catalog scanned per query"
COSTS = {
    "items_scanned": "items scanned per query",
    "microseconds_per_query": "µs per query",
    "n_probes": "lists visited per query, n_probes",
}
CAPTION = (
    "A label is the number of lists visited (n_probes). Lists differ in length, so the same number "
    "reads more items of one index than of another."
)
# A level farther than this from the curves, in heights of theirs, is in the legend alone.
NEAR = 0.75
# From this ratio of the highest cost to the lowest on, costs are drawn on a logarithmic scale.
DECADE = 10
MANY_DECADES = 10**4

OWN_LOOK: dict[str, Any] = {
    "color": OWN,
    "linewidth": 2.8,
    "marker": "o",
    "markersize": 7,
    "markeredgecolor": "white",
    "zorder": 2.4,
}
OTHER_LOOK: dict[str, Any] = {"linewidth": 1.3, "markersize": 4.5, "zorder": 2.2}


def draw_quality(
    axes: Axes,
    rows: Any,
    quality: str,
    *,
    against: str = "items_scanned",
    n_items: int | None = None,
    highlight: str | None = "merlin_poeem",
) -> None:
    """Quality against what a search costs, a curve a method, each point with its ``n_probes``.

    Compare methods at the same share of the catalog scanned. At the same ``n_probes`` the
    comparison is not fair: lists are of unequal length, and so one index reads more items than
    another in as many lists.

    Parameters
    ----------
    axes
        matplotlib's. Labels are placed when the figure is drawn, clear of each other.
    rows
        A row a method and ``n_probes``, as mappings or a DataFrame: ``method``, ``n_probes``, the
        columns ``quality`` and ``against`` and, for the legend, ``bytes_per_item``. A row without
        ``n_probes`` (None or NaN), such as exact search, is a level: a dashed line, with its value
        in the legend. A level far from all curves is in the legend alone.
    quality
        The column that is drawn, such as ``recall_at_20``.
    against
        ``items_scanned``, ``microseconds_per_query`` or ``n_probes``; logarithmic where it spans a
        decade.
    n_items
        Items of the catalog: ``items_scanned`` is drawn as a share of them. None takes them from
        the row of a method whose name begins with "exact", which scans all; without one the axis
        counts items.
    highlight
        Methods whose names begin so stand out.

    Raises
    ------
    ValueError
        No row with ``n_probes``, a column that is missing, another ``against``, or fewer
        ``n_items`` than a search scans.
    """
    if against not in COSTS:
        raise ValueError(f"against: expected one of {', '.join(COSTS)}; got {against!r}")
    levels, curves = _levels_and_curves(_records(rows), quality, against)
    catalog = _n_items(levels, curves, n_items) if against == "items_scanned" else None
    labels = PlacedLabels(axes, fontsize=7)
    for method, look in _looks(list(curves), highlight).items():
        # Not by the cost: times of a busy machine do not rise with every list.
        of_method = sorted(curves[method], key=lambda row: row["n_probes"])
        costs = [row[against] / (catalog or 1) for row in of_method]
        values = [row[quality] for row in of_method]
        axes.plot(costs, values, label=_named(method, of_method[0]), **look)
        if against != "n_probes":
            weight = "bold" if look["color"] == OWN else "normal"
            for row, point in zip(of_method, zip(costs, values, strict=True), strict=True):
                labels.add(f"{row['n_probes']:.0f}", point, look["color"], fontweight=weight)
    rows_of_curves = [row for of_method in curves.values() for row in of_method]
    _draw_levels(axes, levels, quality, [row[quality] for row in rows_of_curves])
    _scale_costs(axes, against, [row[against] for row in rows_of_curves])
    cost = COSTS[against]
    if catalog is not None:
        cost = SHARE
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlim(right=min(1.05, axes.get_xlim()[1]))
    axes.set_xlabel(cost if against == "n_probes" else f"{cost} (labels: n_probes)")
    axes.set_ylabel(quality.replace("_at_", "@"))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, handlelength=3)


def plot_quality(
    rows: Any, quality: str, title: str, path: str | os.PathLike[str], **options: Any
) -> None:
    """A file of :func:`draw_quality`, whose ``options`` it takes, with a caption.

    Its kind is that of ``path``'s ending, such as ``.png``; folders are made as needed.
    """
    axes = new_axes()
    draw_quality(axes, rows, quality, **options)
    axes.set_title(title)
    if options.get("against") != "n_probes":
        axes.figure.supxlabel(CAPTION, fontsize=7, color=REFERENCE)
    save(axes, path)


def _records(rows: Any) -> list[dict[str, Any]]:
    """Rows of mappings or of a DataFrame, None in the place of NaN."""
    listed: Sequence[Row] = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in listed
    ]


def _levels_and_curves(
    rows: list[dict[str, Any]], quality: str, against: str
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The rows without ``n_probes``, and those with it by method; all they need is there."""
    levels, curves = [], dict[str, list[dict[str, Any]]]()
    for row in rows:
        is_level = row.get("n_probes") is None
        needed = {"method", "n_probes", quality} | (set() if is_level else {against})
        missing = sorted(name for name in needed if name not in row)
        missing += sorted(n for n in needed - {"n_probes"} if n in row and row[n] is None)
        if missing:
            raise ValueError(f"rows: expected the columns {missing}, got {row}")
        if is_level:
            levels.append(row)
        else:
            curves.setdefault(str(row["method"]), []).append(row)
    if not curves:
        raise ValueError("rows: expected at least one with n_probes, got none")
    return levels, curves


def _n_items(
    levels: list[dict[str, Any]], curves: dict[str, list[dict[str, Any]]], n_items: int | None
) -> float | None:
    """Items of the catalog; None where they are not known."""
    exact = [row for row in levels if row["method"].startswith("exact")]
    known = [row["items_scanned"] for row in exact if row.get("items_scanned")]
    catalog: float | None = max(known, default=None) if n_items is None else n_items
    most = max(row["items_scanned"] for rows in curves.values() for row in rows)
    if catalog is not None and catalog < most:
        raise ValueError(
            f"n_items: expected those of the catalog, at least the {most:,.0f} that a search "
            f"scans; got {catalog:,.0f}"
        )
    return catalog


def _looks(methods: list[str], highlight: str | None) -> dict[str, dict[str, Any]]:
    """How each method is drawn; those that stand out come first, in the legend and to labels."""
    own = [name for name in methods if highlight is not None and name.startswith(highlight)]
    others = [name for name in methods if name not in own]
    looks = {name: OWN_LOOK | {"linestyle": LINES[i % len(LINES)]} for i, name in enumerate(own)}
    for i, name in enumerate(others):
        looks[name] = OTHER_LOOK | {
            "color": OTHERS[i % len(OTHERS)],
            "marker": MARKERS[i % len(MARKERS)],
            # Seen where one curve lies on another.
            "linestyle": LINES[i % len(LINES)],
        }
    return looks


def _named(method: str, row: Row) -> str:
    n_bytes = row.get("bytes_per_item")
    return method if n_bytes is None else f"{method}, {n_bytes:.0f} B"


def _draw_levels(
    axes: Axes, levels: list[dict[str, Any]], quality: str, values: Sequence[float]
) -> None:
    """Dashed lines, and limits that show the curves and what is near them."""
    low, high = min(values), max(values)
    height = (high - low) or 0.02 * abs(high) or 0.01
    near = [low, high]
    for i, row in enumerate(levels):
        level = row[quality]
        is_near = low - NEAR * height <= level <= high + NEAR * height
        near += [level] if is_near else []
        where = "" if is_near else ", above" if level > high else ", below"
        axes.axhline(
            level,
            color=REFERENCE,
            linestyle=(0, (6 - 2 * (i % 3), 3)),
            linewidth=1,
            zorder=2,
            label=f"{_named(row['method'], row)} ({level:.4f}{where})",
        )
    margin = 0.09 * ((max(near) - min(near)) or height)
    axes.set_ylim(min(near) - margin, max(near) + margin)


def _scale_costs(axes: Axes, against: str, costs: Sequence[float]) -> None:
    if min(costs) > 0 and max(costs) >= DECADE * min(costs):
        axes.set_xscale("log")
        steps = (1, 2, 5) if max(costs) < MANY_DECADES * min(costs) else (1,)
        axes.xaxis.set_major_locator(LogLocator(10, steps))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    if against == "n_probes":
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(costs)), nbins=15))
    axes.xaxis.set_major_formatter(FuncFormatter(_count))
    axes.margins(x=0.07)


def _count(cost: float, _: int | None) -> str:
    return f"{cost:,.6g}"


def _percent(share: float, _: int | None) -> str:
    if share > 1:  # a tick in the margin, of more than all
        return ""
    return f"{100 * share:.3g}%"
