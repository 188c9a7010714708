"""How a training goes: float and quantized recall side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from merlin_poeem.plots.style import OTHERS, OWN, REFERENCE


def draw_training(axes: Axes, history: Mapping[str, Sequence[float]], k: int) -> None:
    """The curves of the ``QuantizedRecall`` callback out of Keras' ``History.history``.

    The quantized one is shorter: it begins when the quantizer does. ``ValueError`` where there is
    no float recall at ``k``.
    """
    name = f"float_recall_at_{k}"
    if name not in history:
        raise ValueError(
            f"history: expected {name}, of the callback QuantizedRecall; got {sorted(history)}"
        )
    exact, quantized = history[name], history.get(f"quantized_recall_at_{k}", [])
    looks = np.arange(1, len(exact) + 1)
    axes.plot(
        looks,
        exact,
        color=OTHERS[0],
        marker="s",
        markersize=3.5,
        label="float vectors, exact search",
    )
    since = looks[len(looks) - len(quantized) :]
    axes.plot(
        since,
        quantized,
        color=OWN,
        linewidth=2.5,
        marker="o",
        markersize=5,
        label="quantized, as exported then",
    )
    if len(quantized):
        axes.axvline(since[0] - 0.5, linestyle=":", color=REFERENCE, label="the quantizer starts")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("evaluation during training")
    axes.set_ylabel(f"recall@{k}")
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.25)
