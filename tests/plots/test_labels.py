"""Where labels go: clear of each other, of marks and of the legend."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.text import Text

from merlin_poeem.plots.labels import NEAR, PlacedLabels


def offsets(axes: Axes) -> np.ndarray:
    """(n, 2) of the labels as drawn, in points."""
    axes.figure.canvas.draw()
    return np.array([text.get_position() for text in axes.texts])


def test_a_lone_one_is_below_its_point(axes: Axes) -> None:
    axes.plot([0, 1, 2], [0, 1, 0], linestyle="none", marker="o")
    PlacedLabels(axes, fontsize=7).add("16", (1, 1), "black")
    np.testing.assert_allclose(offsets(axes), [[0, -9.5]], atol=2)


def test_the_first_has_the_best_place(axes: Axes) -> None:
    labels = PlacedLabels(axes, at_point=True)
    for text in "abc":
        labels.add(text, (0.5, 0.5), "black")
    distances = np.hypot(*offsets(axes).T)
    assert distances[0] == 0
    assert (distances[1:] > 0).all()


def test_many_at_one_point_are_apart_and_led_to(axes: Axes) -> None:
    labels = PlacedLabels(axes)
    for i in range(25):
        labels.add(f"{i}", (0.5, 0.5), "black")
    distances = np.hypot(*offsets(axes).T)
    renderer = axes.figure.canvas.get_renderer()
    drawn = [Text.get_window_extent(text, renderer) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(drawn, 2))
    is_led = [text.arrow_patch.get_visible() for text in axes.texts]
    np.testing.assert_array_equal(is_led, distances > NEAR)
    assert 0 < sum(is_led) < 25


def test_not_on_the_mark_of_another(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = PlacedLabels(axes)
    labels.add("1", (0.5, 0.5), "black")
    (alone,) = offsets(axes)
    below = axes.transData.inverted().transform(
        axes.transData.transform((0.5, 0.5)) + alone * axes.figure.dpi / 72
    )
    axes.plot(*below, marker="o")
    assert not np.allclose(offsets(axes), alone)


def test_not_on_a_curve_where_there_is_room_beside(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = PlacedLabels(axes)
    labels.add("1", (0.5, 0.5), "black")
    np.testing.assert_allclose(offsets(axes)[0, 0], 0, atol=1e-9)  # straight below
    axes.plot([0.5, 0.5], [0, 1])
    assert abs(offsets(axes)[0, 0]) > 3


def test_not_under_the_legend(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = PlacedLabels(axes)
    labels.add("1", (0.99, 0.5), "black")
    (alone,) = offsets(axes)
    axes.plot([0, 0.1], [0, 0], label="a curve")
    legend = axes.legend(loc="upper right", bbox_to_anchor=(1, 0.5))
    assert not np.allclose(offsets(axes), alone)
    renderer = axes.figure.canvas.get_renderer()
    drawn = Text.get_window_extent(axes.texts[0], renderer)
    assert not drawn.overlaps(legend.get_window_extent())


def test_placed_again_when_the_figure_changes(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1))
    PlacedLabels(axes).add("1", (0.5, 0.02), "black")
    assert offsets(axes)[0, 1] > -2  # below is the edge
    axes.set_ylim(-1, 1)
    assert offsets(axes)[0, 1] < -2
