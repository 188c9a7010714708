"""The rows as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.quality.tables import Table
from benchmarks.serving.measure import Row


def tables(head: str, rows: Sequence[Row], times: dict[str, dict[str, float]]) -> str:
    """Latency and rate of each contender at each batch, and where the time of one row goes."""
    header = ["batch", "", "p50 ms", "p99 ms", "requests/s", "p50 × raw", "requests/s × raw"]
    header.append("recall")
    lines = [
        [
            f"{row['batch']:,}",
            row["contender"],
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['requests_per_second']:,.0f}",
            f"{row['ratio_of_p50']:.2f}",
            f"{row['ratio_of_rate']:.2f}",
            f"{row['recall']:.4f}",
        ]
        for row in rows
    ]
    parts = list(next(iter(times.values())))
    where = [
        [name, *(f"{of_model[part]:.0f}" for part in parts), f"{sum(of_model.values()):.0f}"]
        for name, of_model in times.items()
    ]
    return "\n".join(
        [
            head,
            Table("Latency of one client, requests/s of several", header, lines).markdown(),
            Table("Microseconds of a request of one row", ["", *parts, "sum"], where).markdown(),
        ]
    )


def plot(title: str, rows: Sequence[Row], times: dict[str, dict[str, float]], path: Path) -> None:
    """p50 with p99 above it at each batch, and the parts of a request of one row."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    names = list(dict.fromkeys(row["contender"] for row in rows))
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        of_name = [row for row in rows if row["contender"] == name]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(of_name))]
        p50, p99 = ([row[key] for row in of_name] for key in ("p50_ms", "p99_ms"))
        left.bar(places, p50, width, label=name, color=f"C{number}")
        left.bar(places, [b - a for a, b in zip(p50, p99, strict=True)], width, p50,
                 color=f"C{number}", alpha=0.3)  # fmt: skip
    left.set_xticks(range(len(batches)), [f"batch {batch:,}" for batch in batches])
    left.set_yscale("log")
    left.set_ylim(bottom=min(row["p50_ms"] for row in rows) / 2)
    left.set_ylabel("ms: p50, and above it p99")
    left.legend(fontsize=8)
    bottoms = [0.0] * len(times)
    for part in next(iter(times.values())):
        heights = [of_model[part] for of_model in times.values()]
        right.bar(list(times), heights, bottom=bottoms, label=part)
        bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
    right.set_ylabel("microseconds of a request of one row")
    right.legend(fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
