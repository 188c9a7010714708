"""Pictures of an index: what each method finds, how lists fill, how training goes, where lists lie.

A ``draw_...`` function fills the axes that it is given, for notebooks; :func:`plot_quality` makes a
file of them, for the demos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from merlin_poeem import Index

Row = dict[str, Any]

LABELS = {
    "n_probes": "n_probes",
    "items_scanned": "items scanned per query (labels: n_probes)",
    "microseconds_per_query": "µs per query (labels: n_probes)",
}
MAPPED_ITEMS = 3_000
NAMED_LISTS = 10


def draw_quality(axes: Axes, rows: list[Row], quality: str, against: str = "items_scanned") -> None:
    """Quality against what a search costs, a line a method; exact search as a dashed line.

    ``against`` is one of the columns of ``LABELS``.
    """
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        values = [row[quality] for row in of_method]
        if of_method[0]["n_probes"] is None:
            axes.axhline(values[0], linestyle="--", color="grey", linewidth=1)
            where = {"xycoords": ("axes fraction", "data"), "va": "bottom", "fontsize": 8}
            axes.annotate(method, (0.01, values[0]), **where)
            continue
        costs = [row[against] for row in of_method]
        size = f"{of_method[0]['bytes_per_item']:.0f} B"
        axes.plot(costs, values, marker="o", label=f"{method}, {size}")
        if against != "n_probes":
            for row, cost, value in zip(of_method, costs, values, strict=True):
                where = {"textcoords": "offset points", "xytext": (4, -10), "fontsize": 7}
                axes.annotate(str(row["n_probes"]), (cost, value), **where)
    axes.set_xscale("log", base=2 if against == "n_probes" else 10)
    axes.xaxis.set_major_locator(
        LogLocator(2) if against == "n_probes" else LogLocator(10, (1, 2, 5))
    )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(LABELS[against])
    axes.set_ylabel(quality)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)


def plot_quality(rows: list[Row], quality: str, title: str, path: Path) -> None:
    """:func:`draw_quality` against items scanned, as a file."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    draw_quality(axes, rows, quality)
    axes.set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_list_sizes(axes: Axes, index: Index) -> None:
    """Items in each list, the longest first, and their mean."""
    sizes = np.sort(index.list_sizes)[::-1]
    axes.bar(np.arange(1, len(sizes) + 1), sizes, color="tab:blue", alpha=0.7, width=0.85)
    mean = sizes.mean()
    axes.axhline(mean, linestyle="--", color="tab:red", label=f"mean: {mean:,.0f} items")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("list, the longest first")
    axes.set_ylabel("items")
    axes.set_title(f"{len(sizes)} lists, longest / mean = {sizes[0] / mean:.2f}")
    axes.legend(loc="upper right", fontsize=8)


def draw_training(axes: Axes, history: Mapping[str, Sequence[float]], k: int) -> None:
    """The curves of the ``QuantizedRecall`` callback out of Keras' ``History.history``.

    The quantized one is shorter: it begins when the quantizer does.
    """
    exact = history[f"float_recall_at_{k}"]
    quantized = history.get(f"quantized_recall_at_{k}", [])
    looks = np.arange(1, len(exact) + 1)
    axes.plot(looks, exact, marker="o", markersize=3, label="float vectors, exact search")
    since = looks[len(looks) - len(quantized) :]
    axes.plot(since, quantized, marker="s", markersize=3, label="quantized, as exported then")
    if len(quantized):
        axes.axvline(since[0] - 0.5, linestyle=":", color="grey", label="the quantizer starts")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("evaluation during training")
    axes.set_ylabel(f"recall_at_{k}")
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)


def draw_list_map(axes: Axes, index: Index, seed: int = 0) -> None:
    """Items as the index holds them, in the plane in which its lists lie farthest apart.

    A point is an item, decoded; a colour is one of the longest lists; a number stands at the
    centroid of its list. Directions inside the lists count for nothing in the choice of the plane.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(index.n_items)[:MAPPED_ITEMS]
    lists = index.list_ids[rows]
    vectors = index.quantization.rotate(index.decode(index.item_ids[rows]))
    centroids, weights = index.quantization.coarse_centroids, index.list_sizes
    middle = np.average(centroids, axis=0, weights=weights)
    spread = (centroids - middle) * np.sqrt(weights)[:, None]
    plane = np.linalg.svd(spread, full_matrices=False)[2][:2].T
    points, centres = (vectors - middle) @ plane, (centroids - middle) @ plane
    longest = np.argsort(-weights, kind="stable")[:NAMED_LISTS]
    others = ~np.isin(lists, longest)
    axes.scatter(*points[others].T, s=4, color="lightgrey", linewidths=0)
    for colour, number in enumerate(longest):
        axes.scatter(*points[lists == number].T, s=5, color=f"C{colour}", linewidths=0)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": f"C{colour}"}
        axes.annotate(str(number), centres[number], ha="center", va="center", fontsize=8, bbox=box)
    axes.set_xlabel("first axis between centroids")
    axes.set_ylabel("second axis")
    shown = min(NAMED_LISTS, index.n_lists)
    axes.set_title(f"{len(rows):,} items, the {shown} longest of {index.n_lists} lists coloured")
