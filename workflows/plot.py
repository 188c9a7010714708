"""The demo's picture: what each method finds for the items it looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

Row = dict[str, Any]


def plot_quality(rows: list[Row], quality: str, title: str, path: Path) -> None:
    """Quality against items scanned per query, a line a method; exact search as a dashed line."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        values = [row[quality] for row in of_method]
        if of_method[0]["n_probes"] is None:
            axes.axhline(values[0], linestyle="--", color="grey", linewidth=1)
            axes.annotate(
                method,
                (0.01, values[0]),
                xycoords=("axes fraction", "data"),
                va="bottom",
                fontsize=8,
            )
            continue
        scanned = [row["items_scanned"] for row in of_method]
        axes.plot(
            scanned, values, marker="o", label=f"{method}, {of_method[0]['bytes_per_item']:.0f} B"
        )
        for row in of_method:
            axes.annotate(
                str(row["n_probes"]),
                (row["items_scanned"], row[quality]),
                textcoords="offset points",
                xytext=(4, -10),
                fontsize=7,
            )
    axes.set_xscale("log")
    axes.set_xlabel("items scanned per query (labels: n_probes)")
    axes.set_ylabel(quality)
    axes.set_title(title)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
