"""The benchmark of a served index, tiny: what is measured is the same search, and is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")
pytest.importorskip("tritonclient.grpc")

from benchmarks.serving import __main__ as command
from benchmarks.serving.in_process import spans_of, timed
from workflows.serving.triton_server import NoTritonServer, find_installation


def test_tiny(tmp_path: Path) -> None:
    try:
        find_installation()
    except NoTritonServer as missing:
        pytest.skip(f"needs a Triton server: {missing}")
    sizes = ["--n-items", "3000", "--dim", "16", "--bytes", "8", "--n-lists", "16"]
    effort = ["--rounds", "2", "--requests", "6", "--seconds", "0.2", "--threads", "1"]
    batches = ["--batches", "1", "8", "--k", "10", "--n-probes", "4"]
    command.main([*sizes, *effort, *batches, "--results", str(tmp_path)])
    told = json.loads((tmp_path / "serving" / "3000x16.json").read_text())
    names = [command.RAW, command.VECTORS, command.IN_PROCESS]
    assert [row["contender"] for row in told["rows"]] == 2 * names
    assert len({row["recall"] for row in told["rows"]}) == 1
    for row in told["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["requests_per_second"] > 0
        assert (row["ratio_of_p50"] == 1) == (row["contender"] == command.RAW)
    for parts in told["microseconds"].values():
        assert all(parts[name] > 0 for name in ("queue", "compute_infer", "outside"))
    assert (tmp_path / "serving" / "3000x16.png").stat().st_size > 10_000
    assert command.RAW in (tmp_path / "serving" / "3000x16.md").read_text()


def test_spans_go_round() -> None:
    spans = spans_of(10, 4)
    assert [next(spans) for _ in range(3)] == [slice(0, 4), slice(4, 8), slice(0, 4)]


def test_as_many_as_asked_for_or_as_long() -> None:
    asked: list[slice] = []
    assert len(timed(asked.append, spans_of(4, 2), count=3)) == len(asked) == 3
    assert len(timed(asked.append, spans_of(4, 2), during=0.01)) == len(asked) - 3 > 0
