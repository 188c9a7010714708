"""What the picture of quality shows, read back from its axes."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.text import Text

from merlin_poeem.plots import draw_quality, plot_quality
from merlin_poeem.plots.style import OWN

N_ITEMS = 10_000
PROBES = (1, 2, 4, 8, 16, 32)
METHODS = ("Faiss IVF-PQ", "Faiss OPQ+IVF-PQ", "merlin_poeem", "ScaNN")


def row_of(method: str, i: int, n_probes: int) -> dict[str, Any]:
    """Of four methods so close to each other that their labels are in each other's way."""
    return {
        "method": method,
        "n_probes": n_probes,
        "recall_at_20": 0.2 - 0.1 / n_probes - 0.003 * i,
        "bytes_per_item": 8.0,
        "items_scanned": 80.0 * n_probes * (1 + 0.04 * i),
        "microseconds_per_query": 10.0 + n_probes,
    }


EXACT = {
    "method": "exact",
    "n_probes": None,
    "recall_at_20": 0.21,
    "bytes_per_item": 256,
    "items_scanned": float(N_ITEMS),
}
ROWS = [EXACT, *(row_of(method, i, n) for i, method in enumerate(METHODS) for n in PROBES)]
OURS = [row for row in ROWS if row["method"] == "merlin_poeem"]


def curve_of(axes: Axes, name: str) -> Any:
    (line,) = [line for line in axes.get_lines() if line.get_label().startswith(name)]
    return line


def boxes(axes: Axes) -> list[Any]:
    """Of the labels, as they were drawn; in pixels."""
    axes.figure.canvas.draw()
    renderer = axes.figure.canvas.get_renderer()
    return [Text.get_window_extent(text, renderer) for text in axes.texts]


class TestCurves:
    def test_against_the_share_of_the_catalog(self, axes: Axes) -> None:
        draw_quality(axes, ROWS, "recall_at_20")
        curve = curve_of(axes, "merlin_poeem")
        shares = [row["items_scanned"] / N_ITEMS for row in OURS]
        np.testing.assert_allclose(curve.get_xdata(), shares)
        np.testing.assert_allclose(curve.get_ydata(), [row["recall_at_20"] for row in OURS])
        assert curve.get_label() == "merlin_poeem, 8 B"
        assert axes.get_xlabel() == "share of the catalog scanned per query (labels: n_probes)"
        assert axes.get_ylabel() == "recall@20"
        assert axes.get_xscale() == "log"
        assert axes.xaxis.get_major_formatter()(0.015, None) == "1.5%"

    def test_the_catalog_may_be_given(self, axes: Axes) -> None:
        draw_quality(axes, OURS, "recall_at_20", n_items=4 * N_ITEMS)
        first = curve_of(axes, "merlin_poeem").get_xdata()[0]
        assert first == pytest.approx(OURS[0]["items_scanned"] / (4 * N_ITEMS))

    def test_items_are_counted_where_the_catalog_is_not_known(self, axes: Axes) -> None:
        draw_quality(axes, OURS, "recall_at_20")
        assert curve_of(axes, "merlin_poeem").get_xdata()[0] == OURS[0]["items_scanned"]
        assert axes.get_xlabel() == "items scanned per query (labels: n_probes)"
        assert axes.xaxis.get_major_formatter()(12_000, None) == "12,000"

    def test_a_curve_goes_from_few_lists_to_many(self, axes: Axes) -> None:
        """Also where more of them took less time, and whatever the order of the rows."""
        times = dict(zip(PROBES, (12.0, 11.0, 15.0, 14.0, 20.0, 30.0), strict=True))
        rows = [row | {"microseconds_per_query": times[row["n_probes"]]} for row in OURS[::-1]]
        draw_quality(axes, rows, "recall_at_20", against="microseconds_per_query")
        curve = curve_of(axes, "merlin_poeem")
        assert curve.get_xdata().tolist() == list(times.values())
        assert curve.get_ydata().tolist() == sorted(row["recall_at_20"] for row in OURS)

    @pytest.mark.parametrize(
        ("against", "scale"), [("microseconds_per_query", "linear"), ("n_probes", "log")]
    )
    def test_against_another_cost(self, axes: Axes, against: str, scale: str) -> None:
        draw_quality(axes, ROWS, "recall_at_20", against=against)
        curve = curve_of(axes, "merlin_poeem")
        np.testing.assert_array_equal(curve.get_xdata(), [row[against] for row in OURS])
        assert axes.get_xscale() == scale
        assert len(axes.texts) == (0 if against == "n_probes" else len(ROWS) - 1)

    def test_a_curve_follows_the_cost_whatever_the_order_of_rows(self, axes: Axes) -> None:
        draw_quality(axes, ROWS[::-1], "recall_at_20")
        assert (np.diff(curve_of(axes, "merlin_poeem").get_xdata()) > 0).all()

    def test_a_frame_gives_the_same(self, axes: Axes) -> None:
        draw_quality(axes, pd.DataFrame(ROWS), "recall_at_20")
        labels = [line.get_label() for line in axes.get_lines()]
        assert labels[-1] == "exact, 256 B (0.2100)"
        assert [text.get_text() for text in axes.texts[:6]] == [str(n) for n in PROBES]

    def test_ours_stands_out(self, axes: Axes) -> None:
        draw_quality(axes, ROWS, "recall_at_20")
        ours = curve_of(axes, "merlin_poeem")
        others = [curve_of(axes, name) for name in METHODS if name != "merlin_poeem"]
        assert ours.get_color() == OWN
        assert OWN not in {line.get_color() for line in others}
        assert ours.get_linewidth() > 2 * max(line.get_linewidth() for line in others)
        assert ours.get_zorder() > max(line.get_zorder() for line in others)
        assert axes.get_legend().get_texts()[0].get_text() == "merlin_poeem, 8 B"
        looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in others}
        assert len(looks) == len(others)

    def test_nothing_stands_out_without_a_name(self, axes: Axes) -> None:
        draw_quality(axes, ROWS, "recall_at_20", highlight=None)
        assert len({line.get_linewidth() for line in axes.get_lines()[:4]}) == 1


class TestLevels:
    def test_a_near_one_is_a_line(self, axes: Axes) -> None:
        draw_quality(axes, ROWS, "recall_at_20")
        level = curve_of(axes, "exact")
        assert set(level.get_ydata()) == {0.21}
        assert axes.get_ylim()[1] > 0.21

    def test_a_far_one_leaves_the_curves_their_room(self, axes: Axes) -> None:
        far = [
            {"method": "best possible", "n_probes": None, "recall_at_20": 0.6},
            {"method": "most popular", "n_probes": float("nan"), "recall_at_20": 0.001},
        ]
        draw_quality(axes, [*ROWS, *far], "recall_at_20")
        low, high = axes.get_ylim()
        assert 0.05 < low < high < 0.25
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels[-2:] == ["best possible (0.6000, above)", "most popular (0.0010, below)"]


class TestLabels:
    def test_none_lies_over_another_the_legend_or_the_edge(self, axes: Axes) -> None:
        draw_quality(axes, ROWS, "recall_at_20")
        drawn = boxes(axes)
        assert len(drawn) == len(METHODS) * len(PROBES)
        for one, other in combinations(drawn, 2):
            assert not one.overlaps(other)
        legend, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
        for box in drawn:
            assert not box.overlaps(legend)
            assert frame.contains(*box.min)
            assert frame.contains(*box.max)

    def test_the_check_sees_labels_that_are_not_placed(self, axes: Axes) -> None:
        draw_quality(axes, ROWS, "recall_at_20")
        boxes(axes)
        for artist in axes.get_children():
            if hasattr(artist, "annotations"):
                artist.set_visible(False)
                artist.draw = lambda renderer: None
        for text in axes.texts:
            text.set_position((0, -8))
        assert any(one.overlaps(other) for one, other in combinations(boxes(axes), 2))


class TestRefused:
    @pytest.mark.parametrize(
        ("rows", "options", "message"),
        [
            (ROWS, {"against": "bytes"}, "against: expected one of items_scanned, .* got 'bytes'"),
            ([EXACT], {}, "rows: expected at least one with n_probes, got none"),
            ([], {}, "rows: expected at least one with n_probes, got none"),
            ([{"method": "a", "n_probes": 1}], {}, r"the columns \['items_scanned', 'recall_at_20"),
            ([{**OURS[0], "items_scanned": None}], {}, r"expected the columns \['items_scanned'\]"),
            ([{"recall_at_20": 1, "method": "a"}], {}, r"expected the columns \['n_probes'\]"),
            (OURS, {"n_items": 50}, "n_items: .* at least the 2,765 that a search scans; got 50"),
        ],
    )
    def test_rows_and_options(
        self, axes: Axes, rows: Any, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            draw_quality(axes, rows, "recall_at_20", **options)


class TestFile:
    def test_kind_and_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "demo.png"
        plot_quality(ROWS, "recall_at_20", "A title", path)
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_the_caption_says_why_probes_are_no_axis(self, tmp_path: Path) -> None:
        plot_quality(ROWS, "recall_at_20", "A title", tmp_path / "a.svg")
        plot_quality(ROWS, "recall_at_20", "A title", tmp_path / "b.svg", against="n_probes")
        caption = "Lists differ in length"
        assert caption in (tmp_path / "a.svg").read_text()
        assert caption not in (tmp_path / "b.svg").read_text()


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("merlin_poeem.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plots needs .* pip install matplotlib"):
        import merlin_poeem.plots  # noqa: F401
