"""The tutorial's task: its pairs, its rule, and the whole job with few pairs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from merlin_poeem import Candidates  # noqa: E402
from workflows import poeem_tutorial  # noqa: E402
from workflows.poeem_tutorial import (  # noqa: E402
    N_RIGHT,
    VOCABULARY,
    K,
    curve_queries,
    make_pairs,
    matches,
    precision,
)


def pairs_of_the_tutorial(seed: int, n_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Pair by pair, as one reads the tutorial: three draws, then the digits of each item."""
    np.random.seed(seed)
    query = np.random.randint(0, high=VOCABULARY, size=n_pairs)
    item = np.random.randint(0, high=VOCABULARY, size=n_pairs)
    noise = np.random.rand(n_pairs, 4)
    queries = []
    for i in range(n_pairs):
        digits = f"{item[i]:04d}"
        first, second = noise[i].argsort()[:2]
        queries.append(int(f"{query[i]:04d}"[:2] + digits[first] + digits[second]))
    return np.array(queries), item


def test_pairs_are_the_tutorials_draws() -> None:
    pairs = make_pairs(3, 500)
    queries, items = pairs_of_the_tutorial(3, 500)
    np.testing.assert_array_equal(pairs["query"], queries)
    np.testing.assert_array_equal(pairs["item"], items)


def test_pairs_obey_the_rule() -> None:
    pairs, table = make_pairs(0, 2000), matches()
    assert table[pairs["query"] % 100, pairs["item"]].all()


def test_rule_counts_digits() -> None:
    table = matches()
    assert table[12, 1290]
    assert table[12, 1190]  # two of the digits are 1 or 2
    assert not table[12, 1390]
    assert table[7, 7].all()  # 0007 for the ending 07
    assert not table[55, 1234]


def test_queries_of_the_curve_have_equally_many_right_items() -> None:
    table = matches()
    queries, relevant = curve_queries(table)
    assert len(queries) == len(relevant) > 100
    assert set(relevant.lengths) == {N_RIGHT}
    for i, query in enumerate(queries["query"]):
        assert table[query % 100, relevant.row(i)].all()


def test_precision_counts_missing_results_as_misses() -> None:
    table = matches()
    right = [np.flatnonzero(table[query % 100])[:K] for query in range(VOCABULARY)]
    counts = np.full(VOCABULARY, K)
    scores = np.zeros(K * VOCABULARY, np.float32)
    assert precision(Candidates(counts, scores, np.concatenate(right)), table) == 1
    half = np.concatenate([row[: K // 2] for row in right])
    assert precision(Candidates(counts // 2, scores[: len(half)], half), table) == 0.5


def test_whole_job_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--pairs", "40000", "--epochs", "1", "--without-plain", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["poeem_tutorial", *options])
    poeem_tutorial.main()
    assert "merlin_poeem" in capsys.readouterr().out
    rows = json.loads((tmp_path / "demo_tutorial.json").read_text())["rows"]
    ours = [row for row in rows if row["method"] == "merlin_poeem"]
    assert [row["n_probes"] for row in ours] == [1, 2, 4, 8]
    assert all(row["bytes_per_item"] == 9 for row in ours)  # a scale is a byte
    assert all(0 <= row["precision_at_100"] <= 1 for row in rows)
    assert (tmp_path / "demo_tutorial.png").is_file()
