"""The pictures of docs/pictures/: what they are drawn from, and that they can be drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from scripts.draw_pictures import DRAWN, PICTURES, draw_bytes, draw_cpu_peers, draw_tutorial, main

QUALITY = PICTURES.parent / "quality.md"
SPEED = PICTURES.parent / "cpu.md"
LARGEST = 150_000
NAMES = [f"{name}.svg" for name in DRAWN]


def figures(name: str) -> dict[str, Any]:
    return json.loads((PICTURES / f"{name}.json").read_text())


def test_the_pictures_are_there_and_small() -> None:
    assert sorted(path.name for path in PICTURES.glob("*.svg")) == sorted(NAMES)
    for name in NAMES:
        assert (PICTURES / name).stat().st_size < LARGEST, name


def test_draws_them_all_and_again_the_same(tmp_path: Path) -> None:
    main(["--to", str(tmp_path / "one")])
    main(["--to", str(tmp_path / "two")])
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(NAMES)
    for name in NAMES:
        drawn = (tmp_path / "one" / name).read_bytes()
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
        assert len(drawn) < LARGEST
        assert drawn == (tmp_path / "two" / name).read_bytes()


def test_a_new_run_takes_the_place_of_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    for name, draw in DRAWN.items():
        monkeypatch.setitem(
            DRAWN, name, lambda figures, n=name, d=draw: drawn.update({n: figures}) or d(figures)
        )
    path = tmp_path / "demo_tutorial.json"
    rows = figures("tutorial")["rows"][:5]
    path.write_text(json.dumps({"rows": rows, "versions": {}}))
    main(["--tutorial", str(path), "--to", str(tmp_path)])
    assert drawn["tutorial"]["rows"] == rows
    assert drawn["tutorial"]["source"] == "From demo_tutorial.json."
    assert drawn["cpu_peers"] == figures("cpu_peers")


def test_what_bytes_find_is_in_the_tables() -> None:
    """A table that is changed is to be drawn anew."""
    tables = QUALITY.read_text()
    for row in figures("bytes")["rows"]:
        assert f"{row['recall_at_20']:.4f}".lstrip("0") in tables, row


def test_what_the_peers_find_at_most_is_in_their_table() -> None:
    table = SPEED.read_text().partition("times ours | most found |")[2].partition("\n\n")[0]
    told = {
        re.sub(r"\*\*| \(.*\)", "", name): float(most)
        for name, most in re.findall(r"^\| (.*?) \|.*\| (\.\d+) \|$", table, re.MULTILINE)
    }
    best: dict[str, float] = {}
    for row in figures("cpu_peers")["rows"]:
        name = row["method"].replace("ours", "merlin_poeem")
        name += "" if row["stored"] else ", codes alone"
        best[name] = max(best.get(name, 0), row["recall_at_100"])
    told["usearch HNSW, float16 vectors"] = told.pop("usearch HNSW, float16")
    assert len(told) == 8
    assert told == {name: pytest.approx(best[name], abs=5e-4) for name in told}


def test_the_tutorial_has_a_curve_a_method_and_says_where_it_is_from() -> None:
    figure = draw_tutorial(figures("tutorial"))
    (axes,) = figure.axes
    named = axes.get_legend_handles_labels()[1]
    assert named[:3] == ["merlin_poeem, 9 B", "Faiss IVF-PQ, 8 B", "Faiss OPQ+IVF-PQ, 8 B"]
    assert "(plain model)" not in " ".join(named)
    assert "make demo" in figure.get_supxlabel()


def test_bytes_have_a_panel_a_data_set() -> None:
    figure = draw_bytes(figures("bytes"))
    assert [axes.get_title() for axes in figure.axes] == ["Gowalla", "MovieLens 1M"]
    for axes in figure.axes:
        ours, *_, exact = axes.get_lines()
        assert ours.get_label() == "merlin_poeem"
        assert max(ours.get_ydata()) <= exact.get_ydata()[0]


def test_peers_show_only_settings_that_pay() -> None:
    figure = draw_cpu_peers(figures("cpu_peers"))
    (axes,) = figure.axes
    assert axes.get_lines()[0].get_label() == "merlin_poeem, codes alone, 17 B"
    assert not any("int8" in line.get_label() for line in axes.get_lines())
    for line in axes.get_lines():
        speed, found = line.get_data()
        assert list(speed) == sorted(speed, reverse=True)
        assert list(found) == sorted(found)
