"""Short texts at points, none over another: they are placed when the figure is drawn.

Only then it is known how large the axes are, and where the legend is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

Points = NDArray[np.float64]

# Points (1/72 inch) from the point to the middle of its text; beyond NEAR a thin line leads there.
DISTANCES = (8.0, 11.0, 15.0, 20.0, 27.0, 36.0, 48.0)
NEAR = 12.0
# From straight below on, by turns to the right and to the left, as curves rise to the right.
ANGLES = np.deg2rad(-90 + np.array([0, 30, -30, 60, -60, 180, 150, -150, 90, -90, 120, -120]))
# Points that a text keeps from what is beside it, and from the middle of a mark; pixels between two
# of the places on a curve that it is kept from.
MARGIN, MARK, STEP = 1.0, 2.0, 4.0
# matplotlib's ways to say that a line has no mark, or marks alone.
NOTHING = (None, "None", "none", " ", "")

# What it costs that a text lies over another, a point on a curve, the legend or the axes' edge, a
# piece of a curve; that it is a point (1/72 inch) farther away; and a place later in their order.
OVER_TEXT, OVER_POINT, OVER_EDGE, OVER_CURVE, FARTHER, LATER = 1e6, 300.0, 1e4, 20.0, 1.0, 0.05


class PlacedLabels(Artist):
    """Texts of one axes; those that were added first get the best places."""

    def __init__(
        self, axes: Axes, *, at_point: bool = False, margin: float = MARGIN, **text: Any
    ) -> None:
        """``at_point``: at its point is where a text lies best. ``text``: matplotlib's, of all."""
        super().__init__()
        self.annotations: list[Annotation] = []
        self._at_point, self._margin, self._text = at_point, margin, text
        # Before all else of the axes, the texts among it.
        self.set_zorder(-1)
        self.set_in_layout(False)
        axes.add_artist(self)

    def add(self, text: str, point: tuple[float, float], color: str, **more: Any) -> None:
        """``text`` for a point in the coordinates of the axes' data."""
        annotation = self.axes.annotate(
            text,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            color=color,
            annotation_clip=True,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            **(self._text | more),
        )
        annotation.set_in_layout(False)
        self.annotations.append(annotation)

    def draw(self, renderer: Any) -> None:
        """Places the texts; they are drawn later, as what they are."""
        scale = renderer.points_to_pixels(1.0)
        curves, points = self._drawn()
        frame = self.axes.get_window_extent(renderer)
        taken: list[Bbox] = []
        legend = self.axes.get_legend()
        edges = [] if legend is None else [legend.get_window_extent(renderer)]
        for annotation in self.annotations:
            at = self.axes.transData.transform(annotation.xy)
            size = Text.get_window_extent(annotation, renderer).size / 2 + self._margin * scale
            offsets = self._offsets()
            centres = at + scale * offsets
            low, high = centres - size, centres + size
            cost = FARTHER * np.hypot(*offsets.T) + LATER * np.arange(len(offsets))
            cost += OVER_TEXT * sum((_overlap(low, high, box) for box in taken), np.zeros(len(low)))
            cost += OVER_EDGE * sum((_overlap(low, high, box) for box in edges), np.zeros(len(low)))
            cost += OVER_EDGE * np.any((low < frame.min) | (high > frame.max), axis=1)
            if not self._at_point:
                cost += OVER_POINT * _inside(low - MARK * scale, high + MARK * scale, points)
                cost += OVER_CURVE * _inside(low, high, curves)
            best = int(np.argmin(cost))
            annotation.set_position(tuple(offsets[best]))
            annotation.arrow_patch.set_visible(np.hypot(*offsets[best]) > NEAR)
            taken.append(Bbox([low[best], high[best]]))

    def _offsets(self) -> Points:
        """(n, 2) places to try, in points from the point."""
        around = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
        offsets = np.concatenate([distance * around for distance in DISTANCES])
        return np.concatenate([np.zeros((1, 2)), offsets]) if self._at_point else offsets

    def _drawn(self) -> tuple[Points, Points]:
        """(n, 2) pixels along every line of the axes, and those of its marks."""
        along: list[Points] = [np.zeros((0, 2))]
        marks: list[Points] = [np.zeros((0, 2))]
        for line in self.axes.get_lines():
            corners = line.get_transform().transform(line.get_xydata())
            if line.get_marker() not in NOTHING:
                marks.append(corners)
            if line.get_linestyle() not in NOTHING:
                along += [_between(*pair) for pair in pairwise(corners)]
        return np.concatenate(along), np.concatenate(marks)


def _between(start: Points, end: Points) -> Points:
    n_steps = int(np.hypot(*(end - start)) / STEP) + 2
    return np.asarray(np.linspace(start, end, n_steps), np.float64)


def _overlap(low: Points, high: Points, box: Bbox) -> Points:
    """(n,) pixels² that n boxes share with one."""
    shared = np.minimum(high, box.max) - np.maximum(low, box.min)
    area: Points = np.prod(np.maximum(shared, 0), axis=1)
    return area


def _inside(low: Points, high: Points, points: Points) -> Points:
    """(n,) how many points are in each of n boxes."""
    inside = (points > low[:, None]) & (points < high[:, None])
    return np.asarray(inside.all(axis=2).sum(axis=1), np.float64)
