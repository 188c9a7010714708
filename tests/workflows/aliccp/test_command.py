"""Ali-CCP's whole job, tiny: made-up rows and raw files to a table and a saved index."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("tensorflow")

from merlin_poeem import load_index
from workflows.aliccp import __main__ as command
from workflows.aliccp import towers
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import World
from workflows.aliccp.simulation.write_raw import write_raw


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A few quick steps, with a small codebook's sample."""
    monkeypatch.setattr(towers, "PQ_DIM", 8)
    monkeypatch.setattr(command, "JUDGED_USERS", 100)
    return ["--results", str(tmp_path / "results"), "--batch-size", "256", "--epochs", "25"]


def test_simulated(options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command.main(["--rows", "40000", "--items", "2000", "--users", "100", *options])
    printed = capfd.readouterr().out
    assert "Simulating 2,000 items, 100 users" in printed
    assert "rank   item_id" in printed
    saved = json.loads((tmp_path / "results/demo_aliccp-sim.json").read_text())["rows"]
    methods = ["exact", "Faiss IVF-PQ", "Faiss OPQ+IVF-PQ", "merlin_poeem"]
    methods += ["best possible", "most popular"]
    assert list(dict.fromkeys(row["method"] for row in saved)) == methods
    recall = {row["method"]: row["recall_at_100"] for row in saved}
    assert recall["most popular"] < recall["exact"] < recall["best possible"]
    assert recall["merlin_poeem"] > 0.8 * recall["exact"]
    assert (tmp_path / "results/demo_aliccp-sim.png").stat().st_size > 10_000
    assert load_index(tmp_path / "results/aliccp.index").n_items == 2000


def test_raw_files(options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world = World.make(2_000, 150, seed=1)
    for part, n_rows in (("train", 20_000), ("test", 5_000)):
        write_raw(world, n_rows, tmp_path / part, part)
    with (tmp_path / "train/sample_skeleton_train.csv").open("a") as file:
        file.write("broken\n")
    command.main(["--data", str(tmp_path), *options])
    printed = capfd.readouterr().out
    assert "25,000 rows, 1 malformed lines" in printed
    assert "sample_skeleton_train.csv, line 20001: expected sample id" in printed
    seen = len(pa.concat_tables(draw_rows(world, 20_000))["item_id"].unique())
    assert load_index(tmp_path / "results/aliccp.index").n_items == seen


def test_bad_data_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--data", str(tmp_path / "absent"), "--results", str(tmp_path)])
    assert capsys.readouterr().err.count("\n") == 1


def test_lists_grow_with_the_catalog() -> None:
    assert [towers.n_lists(n) for n in (100, 100_000, 4_300_000)] == [8, 128, 1024]
