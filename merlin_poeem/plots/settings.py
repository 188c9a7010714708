"""The settings that ``tune`` tried, and the one that it chose."""

from __future__ import annotations

import os
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from merlin_poeem.plots.files import new_axes, save
from merlin_poeem.plots.labels import PlacedLabels
from merlin_poeem.plots.style import OWN, REFERENCE


def draw_settings(
    axes: Axes, table: Any, *, chosen: tuple[int, int], target: float | None = None
) -> None:
    """Quality against the bytes read, a curve for each ``refine``.

    Bytes, not items scanned, as a second look costs bytes and scans no item. The points of the
    chosen ``refine`` are labelled with their ``n_probes``.

    Parameters
    ----------
    table
        Of :meth:`Tuning.table <merlin_poeem.Tuning.table>`.
    chosen
        ``(n_probes, refine)``, which stands out.
    target
        The quality asked for: a dashed line.

    Raises
    ------
    ValueError
        ``chosen`` is not in ``table``.
    """
    n_probes, refine = chosen
    labels = PlacedLabels(axes, fontsize=7)
    is_chosen = (table["n_probes"] == n_probes) & (table["refine"] == refine)
    if not is_chosen.any():
        raise ValueError(f"chosen: expected n_probes and refine of a row, got {chosen}")
    refines = sorted(table["refine"].unique())
    shades = colormaps["viridis_r"]
    for i, each in enumerate(refines):
        curve = table[table["refine"] == each].sort_values("bytes_read")
        colour = shades(0.25 + 0.75 * i / max(1, len(refines) - 1))
        width = 2.2 if each == refine else 1.1
        axes.plot(
            curve["bytes_read"],
            curve["quality"],
            marker=".",
            color=colour,
            linewidth=width,
            label=f"refine {each}",
        )
        if each == refine:
            for row in curve.itertuples():
                labels.add(f"{row.n_probes}", (row.bytes_read, row.quality), colour)
    if target is not None:
        axes.axhline(target, color=REFERENCE, linestyle="--", label=f"target {target:.3g}")
    axes.plot(
        table["bytes_read"][is_chosen],
        table["quality"][is_chosen],
        linestyle="none",
        marker="*",
        markersize=16,
        color=OWN,
        markeredgecolor="white",
        label=f"chosen: n_probes {n_probes}, refine {refine}",
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"read per query (labels: n_probes at refine {refine})")
    axes.set_ylabel("quality")
    axes.grid(alpha=0.25)
    # Beside the axes: curves of many settings leave no corner free.
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def plot_settings(
    table: Any,
    path: str | os.PathLike[str],
    *,
    chosen: tuple[int, int],
    target: float | None = None,
) -> None:
    """A file of :func:`draw_settings`, of the kind of ``path``'s ending, such as ``.png``."""
    axes = new_axes()
    draw_settings(axes, table, chosen=chosen, target=target)
    save(axes, path)
