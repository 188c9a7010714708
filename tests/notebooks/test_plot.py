"""What the pictures show, read back from their axes."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from tests.index_factories import random_index  # noqa: E402
from workflows import plot  # noqa: E402


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


ROWS = [
    {"method": "exact", "n_probes": None, "recall": 0.9},
    *(
        {
            "method": "ours",
            "n_probes": n,
            "recall": 0.5 + n / 100,
            "bytes_per_item": 8.0,
            "microseconds_per_query": 10.0 * n,
        }
        for n in (1, 2, 4)
    ),
]


@pytest.mark.parametrize(
    ("against", "costs"), [("n_probes", [1, 2, 4]), ("microseconds_per_query", [10, 20, 40])]
)
def test_quality_against_a_cost(axes: Axes, against: str, costs: list[int]) -> None:
    plot.draw_quality(axes, ROWS, "recall", against)
    exact, ours = axes.get_lines()
    assert set(exact.get_ydata()) == {0.9}
    np.testing.assert_array_equal(ours.get_xdata(), costs)
    np.testing.assert_allclose(ours.get_ydata(), [0.51, 0.52, 0.54])
    assert ours.get_label() == "ours, 8 B"
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["exact"] + (["1", "2", "4"] if against != "n_probes" else [])
    assert axes.get_xlabel() == plot.LABELS[against]


def test_list_sizes_fall(axes: Axes) -> None:
    index = random_index()
    plot.draw_list_sizes(axes, index)
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == sorted(index.list_sizes, reverse=True)
    assert axes.get_lines()[0].get_ydata()[0] == pytest.approx(index.n_items / index.n_lists)


def test_the_quantized_curve_begins_when_the_quantizer_does(axes: Axes) -> None:
    history = {"float_recall_at_5": [0.1, 0.2, 0.3], "quantized_recall_at_5": [0.15, 0.25]}
    plot.draw_training(axes, history, 5)
    exact, quantized, start = axes.get_lines()
    np.testing.assert_array_equal(exact.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(quantized.get_xdata(), [2, 3])
    assert start.get_xdata()[0] == 1.5


def test_a_curve_of_warm_up_alone(axes: Axes) -> None:
    plot.draw_training(axes, {"float_recall_at_5": [0.1, 0.2]}, 5)
    assert len(axes.get_lines()[1].get_xdata()) == 0


def test_a_map_shows_every_item_once(axes: Axes, monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index("cosine", rotation=True)
    monkeypatch.setattr(plot, "NAMED_LISTS", 3)
    plot.draw_list_map(axes, index)
    shown = [len(dots.get_offsets()) for dots in axes.collections]
    longest = np.argsort(-index.list_sizes, kind="stable")[:3]
    assert shown == [index.n_items - sum(index.list_sizes[longest]), *index.list_sizes[longest]]
    assert [text.get_text() for text in axes.texts] == [str(number) for number in longest]
