"""The GPU benchmark from end to end: on a pretended card, and on the emulated device."""

import json
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search_gpu.__main__ import main, parse
from benchmarks.search_gpu.grid import Setting, grid
from benchmarks.search_gpu.limits import Rates
from benchmarks.search_gpu.machine import Machine
from benchmarks.search_gpu.measure import measure_all
from benchmarks.search_gpu.results import Results
from benchmarks.search_gpu.table import markdown
from benchmarks.search_gpu.timing import take_turns
from merlin_poeem import Candidates, Index
from merlin_poeem.search.faiss.searcher import FaissSearcher
from tests.benchmarks.cards import RATES
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER

pytestmark = pytest.mark.once

ROW = {
    *("backend", "peer", "peer_version", "kind", "n_items", "dim", "code_bytes", "pq_bits"),
    *("pq_dim", "n_lists", "n_probes", "batch", "k", "queries_per_second", "latency_us", "seconds"),
    *("recall", "agreement", "ratio_to_ours", "limit_share", "frame_overhead", "path", "plan"),
    *("error", "note", "device", "driver", "cuda", "date"),
}

# --- the program, on a card that is pretended ---------------------------------------------------


class PretendedCuda:
    """``cupy.cuda``, whose events are a second apart."""

    class Event:
        clock = 0.0

        def record(self) -> None:
            type(self).clock += 1
            self.at = type(self).clock

        def synchronize(self) -> None:
            pass

    class Device:
        def synchronize(self) -> None:
            pass

    @staticmethod
    def get_current_stream() -> Any:
        return PretendedCuda.Device()

    @staticmethod
    def get_elapsed_time(start: Any, end: Any) -> float:
        return 1e3 * (end.at - start.at)


class PretendedCupy(types.ModuleType):
    """NumPy with CUDA events."""

    cuda = PretendedCuda

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@dataclass(frozen=True)
class PretendedPlan:
    path: str = "scan"
    chunk: int = 7


class PretendedSearcher:
    """The interface of ``GpuSearcher`` over the CPU's; ``wrong`` adds to every score."""

    on_device = True
    wrong = 0.0

    def __init__(self, index: Index, device: Any = None) -> None:
        self.index, self.device = index, device
        self.device_bytes = 16 * index.n_items
        self._searcher = FaissSearcher(index)

    def plan(self, batch: int, k: int, n_probes: int) -> PretendedPlan:
        return PretendedPlan()

    def search(self, queries: np.ndarray, **arguments: Any) -> Candidates:
        found = self._searcher.search(queries, **arguments)
        return replace(found, scores=found.scores + np.float32(self.wrong))

    def search_padded(self, queries: np.ndarray, *, k: int, n_probes: int) -> Any:
        scores, item_ids = self.search(queries, k=k, n_probes=n_probes).padded(k, fill_id=-1)
        return types.SimpleNamespace(scores=scores, item_ids=item_ids)

    def capture(self, batch: int, k: int, n_probes: int) -> Any:
        captured = types.SimpleNamespace(queries=np.empty((batch, self.index.dim), np.float32))

        def replay() -> None:
            captured.results = self.search_padded(captured.queries, k=k, n_probes=n_probes)

        captured.replay = replay
        return captured


def pretended_machine(rates: Rates | None = RATES) -> Machine:
    xp = np if rates is None else PretendedCupy("pretended")
    device: Any = types.SimpleNamespace(
        xp=xp, stream_id=lambda: 1, synchronize=lambda: None, free_bytes=lambda: 1 << 40
    )
    description = {"device": "none", "driver": "1", "cuda": "2", "date": "2026-01-02T03:04:05"}
    return Machine(device, rates, description)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("benchmarks.search_gpu.ours.GpuSearcher", PretendedSearcher)
    folder, results = tmp_path / "indexes", tmp_path / "results.json"
    return ["--emulate", "--folder", str(folder), "--results", str(results)]


def rows_of(arguments: list[str], machine: Machine) -> list[dict[str, Any]]:
    options = parse(arguments)
    measure_all(options, machine, Results(options.results))
    rows: list[dict[str, Any]] = json.loads(options.results.read_text())["rows"]
    return rows


def test_rows_of_a_card(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of([*arguments, "--batches", "2", "2048", "--n-probes", "4"], pretended_machine())
    assert all(set(row) == ROW for row in rows)
    by_batch = [
        {row["backend"]: row for row in rows if row["batch"] == batch} for batch in (2, 2048)
    ]
    assert set(by_batch[0]) == {"gpu", "gpu (graph)", "faiss cpu"}
    assert set(by_batch[1]) == {"gpu", "gpu (frames)"}
    ours = by_batch[0]["gpu"]
    assert (ours["seconds"], ours["latency_us"], ours["queries_per_second"]) == (1, 1e6, 2)
    assert (ours["peer"], ours["path"], ours["plan"]) == (
        None,
        "scan",
        {"path": "scan", "chunk": 7},
    )
    assert 0 < ours["limit_share"] < 1e-3
    assert ours["recall"] == by_batch[0]["faiss cpu"]["recall"] > 0.5
    assert by_batch[0]["faiss cpu"]["ratio_to_ours"] == by_batch[0]["faiss cpu"]["seconds"] < 1
    assert by_batch[0]["faiss cpu"]["peer"] == "faiss"
    assert by_batch[1]["gpu (frames)"]["note"] == "missing: cudf"
    printed = capsys.readouterr().out
    for name in ("cuvs ivf_pq", "cuvs brute_force", "faiss gpu", "torch exact", "cupy exact"):
        assert f"missing: {name}: " in printed
    document = json.loads(Path(parse(arguments).results).read_text())
    [opening] = document["openings"]
    assert opening["device_bytes_per_item"] == 16
    assert opening["open_seconds"] > 0
    assert opening["copy_bytes_per_second"] > 0


def test_wrong_answers_are_not_timed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PretendedSearcher, "wrong", 1.0)
    arguments += ["--batches", "2", "--n-probes", "4"]
    [row] = rows_of(arguments, pretended_machine())
    assert "expected score" in row["error"]
    assert row["queries_per_second"] is row["seconds"] is None
    assert "NOT MEASURED: query" in capsys.readouterr().out
    # It is measured anew, and replaced, once it is right.
    monkeypatch.setattr(PretendedSearcher, "wrong", 0.0)
    rows = rows_of(arguments, pretended_machine())
    assert {row["error"] for row in rows} == {None}
    assert len(rows) == 3


def test_a_run_goes_on_where_the_last_one_stopped(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    machine = pretended_machine()
    assert rows_after(arguments, machine, ["--minutes", "0"]) == 0
    assert "4 settings left for another run" in capsys.readouterr().out
    first = rows_after(arguments, machine, ["--n-probes", "4"])
    before = Results(parse(arguments).results).rows
    assert rows_after(arguments, machine, []) == 2 * first
    assert Results(parse(arguments).results).rows[:first] == before
    assert rows_after(arguments, machine, []) == 2 * first
    assert "0 settings to measure" in capsys.readouterr().out


def rows_after(arguments: list[str], machine: Machine, more: list[str]) -> int:
    options = parse([*arguments, *more])
    measure_all(options, machine, Results(options.results))
    return len(Results(options.results).rows)


@pytest.mark.parametrize("on_device", [True, False], ids=["asked for", "no Faiss"])
def test_a_catalog_made_on_the_device(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    arguments += ["--batches", "2", "--n-probes", "4", *(["--on-device"] if on_device else [])]
    if not on_device:
        monkeypatch.setattr("benchmarks.search_gpu.measure.find_spec", lambda name: None)
        monkeypatch.setattr("benchmarks.search_gpu.judge.find_spec", lambda name: None)
    rows = rows_of(arguments, pretended_machine())
    assert {row["error"] for row in rows} == {None}
    assert all(row["recall"] > 0.5 for row in rows)
    [opening] = json.loads(parse(arguments).results.read_text())["openings"]
    assert opening["index"].startswith("device-clustered-1500x16-")
    assert not list(parse(arguments).folder.iterdir())


def test_what_does_not_fit_is_not_measured(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    machine = pretended_machine()
    machine.device.free_bytes = lambda: 100_000  # type: ignore[method-assign]
    options = parse(arguments)
    measure_all(options, machine, Results(options.results))
    printed = capsys.readouterr().out
    assert "not measured: 1,500 items need 0.0 GB on the device" in printed
    assert "4 settings left for another run" in printed


def test_take_turns_measures_in_rounds() -> None:
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name), True) for name in "ab"}
    seconds = take_turns(works, PretendedCupy("pretended"))
    assert seconds == {"a": 1.0, "b": 1.0}
    assert calls == ["a", "a", "b", "b", *"ababab"]


def test_markdown_table(arguments: list[str], tmp_path: Path) -> None:
    rows_of([*arguments, "--n-probes", "4", "--batches", "2"], pretended_machine())
    table = markdown(Results(parse(arguments).results).rows).splitlines()
    assert table[0] == "none, driver 1, CUDA 2, 2026-01-02"
    assert table[2].startswith("Versions: gpu ")
    assert table[4].startswith("| items | dim | bytes | lists/probes | batch | k | backend |")
    assert table[6].startswith("| 1,500 | 16 | 8 | 16/4 | 2 | 10 | gpu | 2 | 1,000,000.0 | ")
    assert len(table) == 9


def test_grid_of_the_options() -> None:
    settings = grid(parse([]))
    assert len(settings) == len(set(settings)) == 2 * 2 * 3 * 2 * 4 * 4 * 3
    assert len(grid(parse(["--large"]))) == len(settings) * 3 // 2
    assert len(grid(parse(["--quick"]))) == 2
    [huge] = {(s.n_items, s.dim, s.k) for s in grid(parse(["--shape", "huge"]))}
    assert huge == (50_000_000, 64, 1500)
    named = grid(parse(["--quick", "--n-items", "7000", "--ks", "5", "9000"]))
    assert {(s.n_items, s.k) for s in named} == {(7000, 5)}
    assert named[0] == Setting("clustered", 7000, 64, 16, 8, 1024, 8, 1, 5)


# --- the program, on the emulated device --------------------------------------------------------


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
def test_emulated_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, table = tmp_path / "results.json", tmp_path / "table.md"
    folder = str(tmp_path / "indexes")
    main(["--emulate", "--folder", folder, "--results", str(results), "--markdown", str(table)])
    rows = json.loads(results.read_text())["rows"]
    assert {row["backend"] for row in rows} == {"gpu", "gpu (graph)", "gpu (frames)", "faiss cpu"}
    assert all(set(row) == ROW for row in rows)
    assert all(row["error"] is None for row in rows)
    ours = [row for row in rows if row["backend"] == "gpu"]
    assert {(row["batch"], row["n_probes"]) for row in ours} == {(1, 1), (1, 4), (8, 1), (8, 4)}
    assert all(row["agreement"] == pytest.approx(1, abs=0.02) for row in ours)
    assert all(row["plan"]["path"] == row["path"] for row in ours)
    for name in ("queries_per_second", "latency_us", "seconds", "limit_share", "ratio_to_ours"):
        assert {row[name] for row in rows} == {None}
    assert "emulated, not a measurement" in capsys.readouterr().out
    assert "emulated on the CPU" in table.read_text()
