"""The settings that were tried, read back from their axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from merlin_poeem.plots import draw_settings, plot_settings

TABLE = pd.DataFrame(
    [
        {
            "n_probes": n_probes,
            "refine": refine,
            "quality": 0.5 + 0.04 * refine + 0.02 * n_probes,
            "items_scanned": 100.0 * n_probes,
            "bytes_read": 900.0 * n_probes + 1280 * refine,
            "milliseconds": None,
        }
        for n_probes in (1, 2, 4, 8)
        for refine in (0, 2, 4)
    ]
)


def test_a_curve_for_each_refine_and_the_chosen_one(axes: Axes) -> None:
    draw_settings(axes, TABLE, chosen=(4, 2), target=0.65)
    *curves, target, chosen = axes.get_lines()
    assert [line.get_label() for line in curves] == ["refine 0", "refine 2", "refine 4"]
    np.testing.assert_allclose(curves[1].get_xdata(), 900 * np.array([1, 2, 4, 8]) + 2560)
    assert set(target.get_ydata()) == {0.65}
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (900 * 4 + 2560, pytest.approx(0.66))
    assert chosen.get_label() == "chosen: n_probes 4, refine 2"
    assert [text.get_text() for text in axes.texts] == ["1", "2", "4", "8"]
    assert {text.xy[0] for text in axes.texts} == set(curves[1].get_xdata())


def test_without_a_target(axes: Axes) -> None:
    draw_settings(axes, TABLE, chosen=(1, 0))
    assert len(axes.get_lines()) == 4


def test_another_than_the_tried_ones(axes: Axes) -> None:
    with pytest.raises(ValueError, match=r"chosen: expected .* of a row, got \(3, 2\)"):
        draw_settings(axes, TABLE, chosen=(3, 2))


def test_a_file(tmp_path: Path) -> None:
    plot_settings(TABLE, tmp_path / "new" / "tuned.png", chosen=(4, 2), target=0.65)
    assert (tmp_path / "new" / "tuned.png").read_bytes().startswith(b"\x89PNG")
