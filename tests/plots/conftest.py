"""Empty axes, without a window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("matplotlib").use("Agg")


@pytest.fixture
def axes() -> Iterator[Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    yield axes
    plt.close(figure)
