"""The steps of the card check as they run on a card, on one that is pretended."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.card_check import card, contract, paths, profiler, sanitizers, streams, timings
from benchmarks.card_check.checks import Checks
from benchmarks.card_check.lines import Lines
from benchmarks.card_check.points import EMULATED_POINTS
from benchmarks.card_check.summary import summarize
from tests.benchmarks.pretended_card import PretendedCard
from tests.index_factories import assert_answers, random_index, random_queries
from tests.search.gpu.openers import CARD_OPENERS, NO_GPU, needs_compiler

pytestmark = [needs_compiler, pytest.mark.once]


def checks_of(step: str, folder: Path) -> Checks:
    lines = Lines(folder / "lines.jsonl", "a run")
    lines.write(step="run", event="start", steps=[step])
    checks = Checks(lines, step, 300, folder, emulate=False)
    checks.device = PretendedCard()
    return checks


def ends(checks: Checks) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in checks.lines.read() if line["event"] == "end"}


def test_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "POINTS", EMULATED_POINTS)
    monkeypatch.setattr(timings, "LARGE", next(iter(EMULATED_POINTS)))
    monkeypatch.setattr("benchmarks.search_gpu.timing.SECONDS_PER_BACKEND", 0)  # fewest rounds
    checks = checks_of("timings", tmp_path)
    timings.run(checks)
    found = ends(checks)
    assert {line["status"] for line in found.values()} == {"measured"}
    one = found["1,200 items: batch 1, 4 probes, k 10, planned"]
    assert one["seconds"] == pytest.approx(1e-3)
    assert one["graph_seconds"] == pytest.approx(1e-3 / timings.REPLAYS)
    assert 0 < one["host_seconds"] < 1
    assert 0 < one["limit_share"] < 1
    assert one["kernels"]["choose_lists"] == pytest.approx(1e-3)
    # Two events a kernel, and two around them all.
    assert one["kernels"]["whole search"] == pytest.approx((2 * 5 + 1) * 1e-3)
    bulk = found["1,200 items: batch 12, 8 probes, k 10, bulk"]
    assert (bulk["path"], bulk["graph_seconds"]) == ("bulk", None)
    assert any(name.startswith("find_candidates") for name in bulk["kernels"])
    refined = found["1,200 items: batch 12, 4 probes, k 10, planned, refine 4"]
    assert refined["kernels"]["refine<true, false>"] == pytest.approx(1e-3)
    assert refined["plan"]["n_candidates"] == 40
    assert refined["recall"] > found["1,200 items: batch 12, 4 probes, k 10, scan"]["recall"]
    assert refined["limit_share"] is None
    fit = found["1,200 items: time over probes"]
    assert fit["a_seconds"] == pytest.approx(1e-3)
    assert set(found["1,200 items: chunks"]["chunk_seconds"]) == {
        *("1024", "2048", "4096", "8192", "16384")
    }
    text = summarize(checks.lines.read())
    assert "scan = 1,000.0 µs + " in text or "scan = 1000.0 µs + " in text
    assert "planned: scan" in text


def test_wrong_answers_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "POINTS", EMULATED_POINTS)
    monkeypatch.setattr("benchmarks.card_check.opened.find_error", lambda *_: "an item too many")
    checks = checks_of("timings", tmp_path)
    timings.run(checks)
    one = ends(checks)["1,200 items: batch 1, 4 probes, k 10, planned"]
    assert (one["status"], one["error"]) == ("failed", "an item too many")
    assert "seconds" not in one
    assert "failed: an item too many" in summarize(checks.lines.read())


def test_streams(tmp_path: Path) -> None:
    checks = checks_of("streams", tmp_path)
    streams.run(checks)
    found = ends(checks)
    for name in ("another stream", "streams in turns", "per-thread default stream"):
        assert found[name]["status"] == "passed", found[name]
    assert "missing: " in found["frames"]["error"]


@pytest.mark.parametrize("way", CARD_OPENERS)
def test_every_way_of_the_contract(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.search.gpu.openers.CARD", PretendedCard())
    if "DLPack" in way:
        pytest.skip("the pretended card's arrays are the host's")
    index = random_index()
    queries = random_queries(index, 20)
    got = CARD_OPENERS[way](index).search(queries, k=10)
    assert_answers(index, got, queries, k=10)


def test_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "COPY_BYTES", 1000)
    checks = checks_of("card", tmp_path)
    card.run(checks)
    found = ends(checks)
    assert {line["status"] for line in found.values()} == {"passed"}
    assert found["card"]["nvrtc"] == [13, 0]
    assert found["copy"]["bytes_per_second"] == pytest.approx(2e6)
    assert "nvrtc: [13, 0]" in summarize(checks.lines.read())


def test_rows_without_numbers_are_found_out(tmp_path: Path) -> None:
    # A search that gives them results, and one that lets them harm others.
    checks = checks_of("paths", tmp_path)

    class Found:
        counts = [1] * 20
        scores = item_ids = [[0.0] * 10] * 20

    class Searcher:
        device = checks.device

        def search_padded(self, queries: Any, **_: Any) -> Any:
            return Found

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(paths.WAYS, "graph", lambda index, device: Searcher())
        checks.run("odd", lambda: paths.answer_odd(checks.device, "graph"))
        checks.run("large", lambda: paths.answer_large(checks.device, "graph", 1e38))
    assert "results for NaN or infinity" in ends(checks)["odd"]["error"]
    assert ends(checks)["large"]["status"] == "failed"


def program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program ``name`` on PATH that does what ``text`` says in Python."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("print('========= ERROR SUMMARY: 0 errors')", "passed", ""),
        (
            "print('========= Invalid read\\n========= ERROR SUMMARY: 2 errors'); sys.exit(9)",
            "failed",
            "Invalid read",
        ),
        ("print('no such device'); sys.exit(1)", "failed", "no such device"),
    ],
)
def test_sanitizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: str, said: str
) -> None:
    program(tmp_path, "compute-sanitizer", text, monkeypatch)
    checks = checks_of("sanitizers", tmp_path)
    sanitizers.run(checks)
    line = ends(checks)["memcheck"]
    assert line["status"] == status
    assert said in (line.get("error") or "")


def test_missing_tools_are_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = checks_of("sanitizers", tmp_path)
    sanitizers.run(checks)
    profiler.run(checks)
    errors = [line["error"] for line in ends(checks).values()]
    assert errors == ["missing: compute-sanitizer"] * 2 + ["missing: ncu"]


def test_profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
    rows = f'{header}\\n"0","scan","Duration","us","7"'
    program(tmp_path, "ncu", f"print('{rows}')", monkeypatch)
    checks = checks_of("profiler", tmp_path)
    profiler.run(checks)
    assert ends(checks)["ncu"]["launches"] == [{"kernel": "scan", "Duration": "7 us"}]
    assert "ncu: kernel scan, Duration 7 us" in summarize(checks.lines.read())


@pytest.mark.skipif(not NO_GPU, reason="this machine has a card")
def test_contract_without_a_card_is_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "card and bulk and test_one_item"
    monkeypatch.setattr(contract, "WAYS", {"bulk": words})
    checks = checks_of("contract", tmp_path)
    contract.run(checks)
    line = ends(checks)["bulk"]
    assert (line["status"], line["outcomes"]) == ("skipped", {"SKIPPED": 3})
