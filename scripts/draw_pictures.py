"""Draw the pictures of docs/pictures/ from the figures beside them, or from those of a new run.

    python -m scripts.draw_pictures [--tutorial results/demo_tutorial.json]
        [--cpu-peers results/cpu_peers/NAME.json] [--to FOLDER]

A file of figures holds ``rows``, and its ``source``: the command that made them. Those of
``bytes.json`` are out of docs/quality.md.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from merlin_poeem.plots import draw_quality
from merlin_poeem.plots.labels import PlacedLabels
from merlin_poeem.plots.style import MARKERS, OTHERS, OWN, REFERENCE

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
OURS = "merlin_poeem"
EXACT = "exact search"
# In the tutorial's table those of the model that was trained without an index.
OF_PLAIN_MODEL = "(plain model)"
# The vectors that a second look goes by, of each family; and none.
STORED = ("", "float16", "bfloat16")

Row = dict[str, Any]
OWN_LOOK = {"color": OWN, "linewidth": 2.8, "marker": "o", "markersize": 7, "zorder": 2.4}
# The same file from the same figures, and no date in it.
SVG = {"svg.hashsalt": "merlin_poeem", "svg.fonttype": "path"}


def draw_tutorial(figures: dict[str, Any]) -> Figure:
    """Precision@100 against the share of the catalog scanned, beside indexes built afterwards."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in figures["rows"] if OF_PLAIN_MODEL not in row["method"]]
    draw_quality(axes, rows, "precision_at_100")
    axes.set_xlim(0, 1.05)
    axes.xaxis.set_major_locator(FixedLocator([0.125, 0.25, 0.5, 0.75, 1]))
    axes.set_title("Trained with the towers, or built afterwards")
    _caption(
        figure,
        "The Poeem tutorial's task: 10,000 items, 8 lists. Faiss' indexes are of the same float "
        "vectors.\nA label is the number of lists visited; lists are of unequal length.",
        figures,
    )
    return figure


def draw_bytes(figures: dict[str, Any]) -> Figure:
    """Recall@20 against the bytes of an item, a panel a data set."""
    tasks = dict.fromkeys(row["task"] for row in figures["rows"])
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks)), tasks, strict=True):
        _draw_bytes_of(axes, [row for row in figures["rows"] if row["task"] == task])
        axes.set_title(task)
    _caption(
        figure,
        "Codes and scales, ScaNN's without. A tenth of the films, a twentieth of the places may be "
        "scanned. Means of seeds 0-2, Gowalla at 5, 17 and 33 bytes of seed 0.\n"
        "fit, Faiss and ScaNN: of the same towers, trained without an index. Exact search: of the "
        "jointly trained ones.",
        figures,
    )
    return figure


def draw_cpu_peers(figures: dict[str, Any]) -> Figure:
    """Recall@100 against queries per second: codes alone, and with a second look."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    shown = [row for row in figures["rows"] if row["stored"] in STORED]
    families = sorted({row["family"] for row in shown}, key=lambda name: (name != "ours", name))
    for number, family in enumerate(families):
        for stored in STORED:
            rows = [row for row in shown if (row["family"], row["stored"]) == (family, stored)]
            if rows:
                _draw_front(axes, rows, _look(number, family == "ours"))
    _log_scale(axes, "queries per second")
    axes.set_ylabel("recall@100 of exact search")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, handlelength=3, loc="lower left")
    axes.set_title("On the CPU: recall against speed")
    _caption(
        figure,
        "A made-up catalog, 570,000 x 64, 2 threads, batches of 1,000. Dotted: codes alone; drawn "
        "through: a second look\nat stored 16-bit vectors. B: bytes of an item, without its id.",
        figures,
    )
    return figure


DRAWN = {"tutorial": draw_tutorial, "bytes": draw_bytes, "cpu_peers": draw_cpu_peers}


def _draw_bytes_of(axes: Axes, rows: list[Row]) -> None:
    labels = PlacedLabels(axes, fontsize=7.5)
    methods = [method for method in dict.fromkeys(row["method"] for row in rows) if method != EXACT]
    for number, method in enumerate(methods):
        of_method = [row for row in rows if row["method"] == method]
        look = _look(number, method == OURS)
        places = [(row["bytes_per_item"], row["recall_at_20"]) for row in of_method]
        axes.plot(*zip(*places, strict=True), label=method, **look)
        for row, place in zip(of_method, places, strict=True):
            labels.add(row.get("label", ""), place, look["color"])
    (exact,) = (row for row in rows if row["method"] == EXACT)
    label = f"{EXACT}, {exact['bytes_per_item']} bytes"
    axes.axhline(exact["recall_at_20"], color=REFERENCE, linestyle="--", linewidth=1, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([5, 9, 17, 33]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel("bytes of an item, without its id")
    axes.set_ylabel("recall@20")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")


def _draw_front(axes: Axes, rows: list[Row], look: dict[str, Any]) -> None:
    """A line through the settings of a method that no other one of it outdoes."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: -row["queries_per_second"]):
        if not front or row["recall_at_100"] > front[-1]["recall_at_100"]:
            front.append(row)
    axes.plot(
        [row["queries_per_second"] for row in front],
        [row["recall_at_100"] for row in front],
        linestyle="-" if rows[0]["stored"] else ":",
        label=_name(rows[0]),
        **look,
    )


def _name(row: Row) -> str:
    method = row["method"].replace("ours", OURS)
    return f"{method}{'' if row['stored'] else ', codes alone'}, {row['bytes_per_item']:.0f} B"


def _look(number: int, own: bool) -> dict[str, Any]:
    if own:
        return OWN_LOOK
    colour, marker = OTHERS[number - 1], MARKERS[number - 1]
    return {"color": colour, "linewidth": 1.3, "marker": marker, "markersize": 4.5}


def _log_scale(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def _caption(figure: Figure, text: str, figures: dict[str, Any]) -> None:
    source = textwrap.fill(figures["source"], 100, break_on_hyphens=False)
    figure.supxlabel(f"{text}\n{source}", fontsize=7, color=REFERENCE)


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in DRAWN:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=Path, help=f"else docs/pictures/{name}.json")
    parser.add_argument("--to", type=Path, default=PICTURES)
    options = parser.parse_args(arguments)
    options.to.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWN.items():
        path = getattr(options, name) or PICTURES / f"{name}.json"
        figures = {"source": f"From {path.name}.", **json.loads(path.read_text())}
        with matplotlib.rc_context(SVG):
            draw(figures).savefig(options.to / f"{name}.svg", metadata={"Date": None})
        print(options.to / f"{name}.svg")


if __name__ == "__main__":
    main()
