"""The lists of an index: how items fill them, and where they lie."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from merlin_poeem.index.index import Index
from merlin_poeem.plots.labels import PlacedLabels
from merlin_poeem.plots.style import FAINT, OTHERS, OWN

MAPPED_ITEMS = 3_000
NAMED_LISTS = len(OTHERS)


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

    A point is an item, decoded; up to 3,000 are drawn by ``seed``. The longest lists are coloured,
    with their number at the centroid. Directions inside the lists count for nothing in the choice
    of the plane, and lists that lie one over another here may be far apart in all dimensions.

    ``ValueError`` where ``index`` holds no items.
    """
    if not index.n_items:
        raise ValueError("index: expected one that holds items, got none")
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
    longest = longest[weights[longest] > 0]
    others = ~np.isin(lists, longest)
    axes.scatter(*points[others].T, s=3, color=FAINT, linewidths=0, zorder=1)
    # The margin is that of the box around a number.
    labels = PlacedLabels(axes, at_point=True, margin=3, fontsize=8, fontweight="bold", zorder=4)
    for number, colour in zip(longest, OTHERS, strict=False):
        axes.scatter(*points[lists == number].T, s=9, color=colour, linewidths=0, zorder=2)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour}
        labels.add(str(number), tuple(centres[number]), colour, bbox=box)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("first axis between centroids")
    axes.set_ylabel("second axis")
    shown = f"the {len(longest)} longest of {index.n_lists:,} lists coloured"
    axes.set_title(f"{len(rows):,} items, {shown}")
