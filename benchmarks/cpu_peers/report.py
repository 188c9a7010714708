"""The rows as Markdown and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks.cpu_peers.at_target import AtTarget, outdone_by_none
from benchmarks.cpu_peers.built import Setting
from benchmarks.cpu_peers.material import Material
from benchmarks.cpu_peers.measure import Row
from benchmarks.cpu_peers.ours import OURS
from benchmarks.quality.tables import Table

# By the kind of stored vectors.
LINES = {"": ":", "float16": "-", "bfloat16": "-", "int8": "--", "float32": "-."}
LOWEST = 0.6
"""Of exact search: what finds less is not in the picture."""


def tables(
    material: Material, rows: Sequence[Row], reached: Sequence[AtTarget], target: float
) -> str:
    """What each method does at the target, and every setting on its front."""
    metrics = list(material.reported.right)
    n_items, dim = material.vectors.shape
    head = (
        f"{material.name}: {n_items:,} items of {dim} dimensions, {material.n_lists} lists, "
        f"k {material.k}, a batch of {len(material.reported.queries):,} queries. Settings are "
        "chosen on as many other queries. Bytes are an item's, without its id: codes and scale, "
        "stored vectors, a graph's links.\n"
    )
    exact = ", ".join(f"{name} {material.exact[name]:.4f}" for name in metrics)
    titles = (f"At {metrics[0]} {target:g}", "Every method's settings")
    header = ["method", "bytes", "queries/s", "× ours", "reached by", "most found"]
    summary = Table(titles[0], header, [_target_line(each, rows) for each in reached])
    header = ["method", "form", "setting", "bytes", *metrics, "queries/s", "ms", "build s"]
    full = Table(titles[1], header, [_line(row, metrics) for row in rows])
    return "\n".join([head, f"Exact search: {exact}.\n", summary.markdown(), full.markdown()])


def plot(material: Material, rows: Sequence[Row], target: float, path: Path) -> None:
    """Each metric against queries per second, a line a method."""
    metrics = list(material.reported.right)
    figure, panels = plt.subplots(
        1, len(metrics), figsize=(10 * len(metrics), 7), layout="constrained", squeeze=False
    )
    for axes, metric in zip(panels[0], metrics, strict=True):
        _draw(axes, rows, metric)
        axes.axhline(material.exact[metric], color="grey", linewidth=1)
        axes.set_ylim(LOWEST * material.exact[metric], 1.02 * material.exact[metric])
    panels[0][0].axhline(target, linestyle=":", color="grey", linewidth=1)
    n_items, dim = material.vectors.shape
    figure.suptitle(f"{material.name}: {n_items:,} × {dim}; grey: exact search and the target")
    named = panels[0][0].get_legend_handles_labels()
    figure.legend(*named, loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """A line through the settings that no other one of the method outdoes; the others as points."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        family, stored = of_method[0]["family"], of_method[0]["stored"]
        sizes = sorted({round(row["bytes_per_item"]) for row in of_method})
        size = "–".join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1])))
        color = f"C{families.index(family)}"
        line = outdone_by_none(of_method, metric)
        axes.plot(
            *_places(line, metric),
            linestyle=LINES[stored],
            linewidth=2.5 if family == OURS else 1.2,
            color=color,
            marker="o",
            markersize=4,
            label=f"{method}, {size} B",
        )
        axes.plot(*_places(of_method, metric), ".", color=color, alpha=0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("queries per second")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)


def _places(rows: Sequence[Row], metric: str) -> tuple[list[float], list[float]]:
    return [row["queries_per_second"] for row in rows], [row[metric] for row in rows]


def _target_line(reached: AtTarget, rows: Sequence[Row]) -> list[str]:
    row = reached.setting
    sizes = [each for each in rows if each["method"] == reached.method] if row is None else [row]
    return [
        reached.method,
        _bytes(sizes[0]),
        "–" if reached.queries_per_second is None else f"{reached.queries_per_second:,.0f}",
        "–" if reached.against_ours is None else f"{reached.against_ours:.2f}",
        "not reached" if row is None else f"{row['form']}: {_text(row['setting'])}",
        f"{reached.best:.4f}",
    ]


def _line(row: Row, metrics: Sequence[str]) -> list[str]:
    return [
        row["method"],
        row["form"],
        _text(row["setting"]),
        _bytes(row),
        *(f"{row[metric]:.4f}" for metric in metrics),
        f"{row['queries_per_second']:,.0f}",
        f"{1e3 * statistics.median(row['seconds']):.1f}",
        f"{row['build_seconds']:.0f}",
    ]


def _bytes(row: Row) -> str:
    """The parts that there are, and their sum."""
    parts = [row[name] for name in ("code_bytes", "vector_bytes", "link_bytes") if row[name]]
    total = f"{row['bytes_per_item']:.0f}"
    return total if len(parts) == 1 else " + ".join(f"{n:.0f}" for n in parts) + f" = {total}"


def _text(setting: Setting) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())
