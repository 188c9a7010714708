"""The curves of a training."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from merlin_poeem.plots import draw_training


def test_the_quantized_curve_begins_when_the_quantizer_does(axes: Axes) -> None:
    history = {"float_recall_at_5": [0.1, 0.2, 0.3], "quantized_recall_at_5": [0.15, 0.25]}
    draw_training(axes, history, 5)
    exact, quantized, start = axes.get_lines()
    np.testing.assert_array_equal(exact.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(quantized.get_xdata(), [2, 3])
    assert start.get_xdata()[0] == 1.5


def test_a_curve_of_warm_up_alone(axes: Axes) -> None:
    draw_training(axes, {"float_recall_at_5": [0.1, 0.2]}, 5)
    assert len(axes.get_lines()[1].get_xdata()) == 0


def test_another_k(axes: Axes) -> None:
    message = r"history: expected float_recall_at_10, .*; got \['float_recall_at_5', 'loss'\]"
    with pytest.raises(ValueError, match=message):
        draw_training(axes, {"loss": [1.0], "float_recall_at_5": [0.1]}, 10)
