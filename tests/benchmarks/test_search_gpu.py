"""The GPU benchmark on the emulated device, its parts on a pretended card, its model and data."""

import json
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import search_gpu
from benchmarks.catalogs import CHUNK_ROWS, Catalog, build_index
from benchmarks.limits import Rates, Work, coarse_seconds, limit_seconds, scan_seconds
from benchmarks.peers import exact_top_k
from benchmarks.search_gpu import Machine, Results, Setting, find_error, parse, run, take_turns
from merlin_poeem import Candidates, Index
from merlin_poeem.quantization import coding
from merlin_poeem.search import reference
from merlin_poeem.search.faiss.searcher import FaissSearcher
from tests.index_factories import random_index, random_queries
from tests.search.gpu.emulation.device import COMPILER, NO_COMPILER

ROW = {
    *("backend", "peer", "peer_version", "kind", "n_items", "dim", "code_bytes", "pq_bits"),
    *("pq_dim", "n_lists", "n_probes", "batch", "k", "queries_per_second", "latency_us", "seconds"),
    *("recall", "agreement", "ratio_to_ours", "limit_share", "frame_overhead", "path", "plan"),
    *("error", "note", "device", "driver", "cuda", "date"),
}

# --- limits -------------------------------------------------------------------------------------

# An H100's attributes, as CUDA 13 reports them.
ATTRIBUTES = {
    "MultiProcessorCount": 132,
    "ClockRate": 1_980_000,
    "MemoryClockRate": 2_619_000,
    "GlobalMemoryBusWidth": 5120,
    "L2CacheSize": 50 << 20,
}
RATES = Rates.of(ATTRIBUTES, (9, 0))
WORK = Work.balanced(
    n_items=4_300_000, dim=64, pq_dim=16, pq_bits=8, n_lists=4096, n_probes=8, batch=1024, k=100
)


def test_rates_of_a_card() -> None:
    assert RATES.memory_bytes == pytest.approx(3.35e12, rel=1e-2)
    assert RATES.shared_words == pytest.approx(132 * 32 * 1.98e9)
    # 989e12 FLOP/s of dense bf16 at 1.83 GHz, by the data sheet.
    assert 2 * RATES.tensor_fmas * 1.83 / 1.98 == pytest.approx(989e12, rel=1e-2)
    assert Rates.of(ATTRIBUTES, (99, 0)).tensor_fmas == Rates.of(ATTRIBUTES, (10, 0)).tensor_fmas


def test_limit_by_hand() -> None:
    # 1,000 items of 8 bytes, 10 of them scanned by each of 2 queries; one unit a second of all.
    work = Work(n_items=1000, dim=4, pq_dim=8, pq_bits=8, n_lists=5, batch=2, k=3, items_scanned=10)
    ones = Rates(1, 1, 1, 1, 1, 0)
    assert coarse_seconds(work, ones) == 2 * 5 * 4 * 2  # scores; the products take 2 * 5 * 4
    lookups, entries, table_fmas = 2 * 10 * 8, 2 * 8 * 256, 2 * 256 * 4
    assert scan_seconds(work, ones) == lookups + entries > table_fmas
    slow_memory = replace(ones, memory_bytes=1e-3)
    items_touched = 1000 * (1 - 0.99**2)
    assert scan_seconds(work, slow_memory) == pytest.approx(1e3 * (items_touched * 8 + 2 * 3 * 12))
    fast = Rates(*[1e30] * 5, 0)
    assert limit_seconds(work, fast, "scan") == pytest.approx(3 * 2e-6)


@given(
    name=st.sampled_from(
        ["n_items", "dim", "pq_dim", "pq_bits", "n_lists", "batch", "k", "items_scanned"]
    ),
    factor=st.integers(2, 5),
    path=st.sampled_from(["scan", "bulk"]),
    batch=st.sampled_from([1, 32, 1024, 16384]),
    n_items=st.sampled_from([10**5, 10**6, 10**7]),
)
def test_more_work_never_takes_less(
    name: str, factor: int, path: Any, batch: int, n_items: int
) -> None:
    work = replace(WORK, batch=batch, n_items=n_items)
    larger = replace(work, **{name: getattr(work, name) * factor})
    least, more = (limit_seconds(w, RATES, path) for w in (work, larger))
    assert more * (1 + 1e-9) >= least > 0  # but for rounding


def test_impossible_work_is_refused() -> None:
    with pytest.raises(ValueError, match="batch: expected above 0, got 0"):
        replace(WORK, batch=0)


# --- catalogs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clustered", "uniform"])
def test_catalog_is_the_same_in_parts(kind: Any) -> None:
    catalog = Catalog(kind, CHUNK_ROWS + 10, 4, seed=3)
    chunks = list(catalog.chunks())
    assert [len(chunk) for chunk in chunks] == [CHUNK_ROWS, 10]
    np.testing.assert_array_equal(catalog.first(CHUNK_ROWS + 5)[-5:], chunks[1][:5])
    np.testing.assert_array_equal(Catalog(kind, CHUNK_ROWS + 10, 4, seed=3).first(9), chunks[0][:9])
    assert not np.array_equal(Catalog(kind, CHUNK_ROWS + 10, 4, seed=4).first(9), chunks[0][:9])
    assert {chunk.dtype for chunk in chunks} == {np.dtype(np.float32)}
    assert not np.array_equal(catalog.queries(9), catalog.queries(9, part=1))
    np.testing.assert_array_equal(catalog.item_ids(np.array([0, 2])), [2**40, 2**40 + 14])


def test_clustered_items_have_skewed_lists(tmp_path: Path) -> None:
    catalog = Catalog("clustered", 20_000, 16)
    lengths = np.linalg.norm(catalog.first(20_000), axis=1)
    assert lengths.mean() == pytest.approx(1, abs=0.02)
    assert lengths.std() == pytest.approx(0.1, abs=0.02)
    index = build_index(catalog, code_bytes=4, n_lists=32, folder=tmp_path)
    assert index.list_sizes.std() > 0.3 * index.list_sizes.mean()


@pytest.mark.parametrize("pq_bits", [4, 8])
def test_index_is_encoded_as_defined_and_kept(pq_bits: int, tmp_path: Path) -> None:
    catalog = Catalog("clustered", 3000, 16)
    index = build_index(catalog, code_bytes=4, n_lists=16, pq_bits=pq_bits, folder=tmp_path)
    assert index.packed_codes.shape == (3000, 4)
    list_ids, codes = coding.encode(index.quantization, catalog.first(3000))
    rows = index.rows_of(catalog.item_ids())
    assert (index.list_ids[rows] == list_ids).mean() > 0.999
    assert (index.codes[rows] == codes).mean() > 0.999
    [path] = tmp_path.iterdir()
    header = (path / "header.json").stat().st_mtime_ns
    again = build_index(catalog, code_bytes=4, n_lists=16, pq_bits=pq_bits, folder=tmp_path)
    np.testing.assert_array_equal(again.packed_codes, index.packed_codes)
    assert (path / "header.json").stat().st_mtime_ns == header


def test_unknown_kind_of_catalog() -> None:
    with pytest.raises(ValueError, match="kind: expected one of clustered, uniform; got 'x'"):
        Catalog("x", 10, 4)  # type: ignore[arg-type]


def test_exact_top_k_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.SCORE_BYTES", 4 * 5 * 7)  # 7 items at a time
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 4), np.float32)
    queries = rng.standard_normal((5, 4), np.float32)
    scores, rows = exact_top_k(np, vectors, queries, 9)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :9]
    np.testing.assert_array_equal(rows, expected)
    assert (np.diff(scores, axis=1) <= 0).all()


# --- comparing answers --------------------------------------------------------------------------


def hits_of(index: Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    found = reference.search(index, queries, k=k)
    return tuple(array.copy() for array in found.padded(k, fill_id=-1))  # type: ignore[return-value]


def test_the_right_answers_have_no_error() -> None:
    index = random_index(n_repeated=390)
    queries = random_queries(index, 6)
    expected = hits_of(index, queries, 8)
    assert find_error(index, queries, expected, expected) is None
    # More queries than were judged, and two items of the same codes swapped.
    scores, item_ids = hits_of(index, random_queries(index, 9), 8)
    tied = np.argwhere(scores[:6, 1:] == scores[:6, :-1])
    assert len(tied), "the index repeats codes"
    row, rank = tied[0]
    item_ids[row, [rank, rank + 1]] = item_ids[row, [rank + 1, rank]]
    first = random_queries(index, 9)[:6]
    assert find_error(index, first, (scores, item_ids), hits_of(index, first, 8)) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda scores, ids: scores.__setitem__((1, 2), 9e9), "rank 2: expected score"),
        (
            lambda scores, ids: ids.__setitem__((1, 2), ids[1, 7]),
            "or one twice|the score of another",
        ),
        (lambda scores, ids: ids.__setitem__((1, 2), 5), "an id that the index does not hold"),
        (lambda scores, ids: ids.__setitem__((1, 7), -1), "expected 8 results, got 7"),
        (
            lambda scores, ids: ids.__setitem__((1, [0, 7]), ids[1, [7, 0]]),
            "an item with the score of another",
        ),
    ],
)
def test_wrong_answers_are_found(damage: Callable[..., None], message: str) -> None:
    index = random_index(n_repeated=0)
    queries = random_queries(index, 3)
    scores, item_ids = hits_of(index, queries, 8)
    damage(scores, item_ids)
    error = find_error(index, queries, (scores, item_ids), hits_of(index, queries, 8))
    assert error is not None
    assert error.startswith("query 1")
    assert any(part in error for part in message.split("|"))


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
    device: Any = types.SimpleNamespace(xp=xp, stream_id=lambda: 1)
    description = {"device": "none", "driver": "1", "cuda": "2", "date": "2026-01-02T03:04:05"}
    return Machine(device, rates, description)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(search_gpu, "GpuSearcher", PretendedSearcher)
    folder, results = tmp_path / "indexes", tmp_path / "results.json"
    return ["--emulate", "--folder", str(folder), "--results", str(results)]


def rows_of(arguments: list[str], machine: Machine) -> list[dict[str, Any]]:
    options = parse(arguments)
    run(options, machine, Results(options.results))
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
    run(options, machine, Results(options.results))
    return len(Results(options.results).rows)


def test_take_turns_measures_in_rounds() -> None:
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name), True) for name in "ab"}
    seconds = take_turns(works, PretendedCupy("pretended"))
    assert seconds == {"a": 1.0, "b": 1.0}
    assert calls == ["a", "a", "b", "b", *"ababab"]


def test_markdown_table(arguments: list[str], tmp_path: Path) -> None:
    rows_of([*arguments, "--n-probes", "4", "--batches", "2"], pretended_machine())
    table = search_gpu.markdown(Results(parse(arguments).results)).splitlines()
    assert table[0] == "none, driver 1, CUDA 2, 2026-01-02"
    assert table[2].startswith("Versions: gpu ")
    assert table[4].startswith("| items | dim | bytes | lists/probes | batch | k | backend |")
    assert table[6].startswith("| 1,500 | 16 | 8 | 16/4 | 2 | 10 | gpu | 2 | 1,000,000.0 | ")
    assert len(table) == 9


def test_grid_of_the_options() -> None:
    settings = search_gpu.grid(parse([]))
    assert len(settings) == len(set(settings)) == 2 * 2 * 3 * 2 * 4 * 4 * 3
    assert len(search_gpu.grid(parse(["--large"]))) == len(settings) * 3 // 2
    assert len(search_gpu.grid(parse(["--quick"]))) == 2
    named = search_gpu.grid(parse(["--quick", "--n-items", "7000", "--ks", "5", "9000"]))
    assert {(s.n_items, s.k) for s in named} == {(7000, 5)}
    assert named[0] == Setting("clustered", 7000, 64, 16, 8, 1024, 8, 1, 5)


# --- the program, on the emulated device --------------------------------------------------------


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
def test_emulated_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, table = tmp_path / "results.json", tmp_path / "table.md"
    folder = str(tmp_path / "indexes")
    search_gpu.main(
        ["--emulate", "--folder", folder, "--results", str(results), "--markdown", str(table)]
    )
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
