"""The lists of an index: how items fill them, and where they lie."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from merlin_poeem.index.index import Index
from merlin_poeem.plots.labels import PlacedLabels
from merlin_poeem.plots.style import FAINT, OTHERS, OWN

# Of the coloured lists, each, and of all the others together.
ITEMS_OF_A_LIST, OTHER_ITEMS = 200, 3_000
NAMED_LISTS = len(OTHERS)
# A hundredth of the items on each side would leave the others no room.
WINDOW = (1, 99)
MARGIN = 0.08


def draw_list_sizes(axes: Axes, index: Index) -> None:
    """Items in each list of ``index``, the longest first, and their mean."""
    sizes = np.sort(index.list_sizes)[::-1]
    axes.stairs(sizes, np.arange(len(sizes) + 1) + 0.5, fill=True, color=OTHERS[0], alpha=0.75)
    mean = sizes.mean()
    axes.axhline(mean, linestyle="--", color=OWN, label=f"mean: {mean:,.0f} items")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, len(sizes) + 0.5)
    axes.set_xlabel("list, the longest first")
    axes.set_ylabel("items")
    ratio = f", longest / mean = {sizes[0] / mean:.2f}" if mean else ""
    axes.set_title(f"{len(sizes):,} lists{ratio}")
    axes.legend(loc="upper right", fontsize=8)


def draw_list_map(axes: Axes, index: Index, *, seed: int = 0) -> None:
    """Items of ``index``, in the plane in which its lists lie farthest apart.

    A point is an item, decoded. The longest lists are coloured, with their number at the centroid.
    Of each up to 200 items are drawn by ``seed``, and up to 3,000 of all the others. Directions
    inside the lists count for nothing in the choice of the plane, and lists that lie one over
    another here may be far apart in all dimensions. The picture is as wide as all but a hundredth
    of the items on each side need: those farther out are beyond its edge.

    ``ValueError`` where ``index`` holds no items.
    """
    if not index.n_items:
        raise ValueError("index: expected one that holds items, got none")
    centroids, weights = index.quantization.coarse_centroids, index.list_sizes
    middle = np.average(centroids, axis=0, weights=weights)
    spread = (centroids - middle) * np.sqrt(weights)[:, None]
    plane = np.linalg.svd(spread, full_matrices=False)[2][:2].T
    longest = np.argsort(-weights, kind="stable")[:NAMED_LISTS]
    longest = longest[weights[longest] > 0]

    rows = np.random.default_rng(seed).permutation(index.n_items)
    lists = index.list_ids[rows]
    drawn = [rows[~np.isin(lists, longest)][:OTHER_ITEMS]]
    drawn += [rows[lists == number][:ITEMS_OF_A_LIST] for number in longest]
    points = [(_vectors(index, each) - middle) @ plane for each in drawn]
    axes.scatter(*points[0].T, s=3, color=FAINT, linewidths=0, zorder=1)
    # The margin is that of the box around a number.
    labels = PlacedLabels(axes, at_point=True, margin=3, fontsize=8, fontweight="bold", zorder=4)
    for number, colour, of_list in zip(longest, OTHERS, points[1:], strict=False):
        axes.scatter(*of_list.T, s=9, color=colour, linewidths=0, zorder=2)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour}
        labels.add(str(number), tuple((centroids[number] - middle) @ plane), colour, bbox=box)
    centres = (centroids[longest] - middle) @ plane
    _frame(axes, np.concatenate(points), centres)
    axes.set_xlabel("first axis between centroids")
    axes.set_ylabel("second axis")
    shown = f"{sum(map(len, drawn)):,} of {index.n_items:,} items"
    axes.set_title(f"{shown}, the {len(longest)} longest of {index.n_lists:,} lists coloured")


def _vectors(index: Index, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, dim) items of rows, as their codes have them, in the space of the centroids."""
    return index.quantization.rotate(index.decode(index.item_ids[rows]))


def _frame(axes: Axes, points: NDArray[np.float64], centres: NDArray[np.float64]) -> None:
    """Limits that show most ``points`` (n, 2) and all ``centres`` (m, 2), and no ticks."""
    low, high = np.percentile(points, WINDOW, axis=0)
    low, high = np.minimum(low, centres.min(axis=0)), np.maximum(high, centres.max(axis=0))
    margin = MARGIN * (high - low) + np.finfo(np.float32).tiny
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xticks([])
    axes.set_yticks([])
