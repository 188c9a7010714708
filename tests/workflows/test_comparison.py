"""The shared table: the same queries through every method, its rows, text, file and picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

faiss = pytest.importorskip("faiss")
pytest.importorskip("matplotlib")

from merlin_poeem import Candidates, Index, IVFPQParams, fit  # noqa: E402
from merlin_poeem.arrays import normalize  # noqa: E402
from merlin_poeem.evaluate import exact_search, recall_at_k  # noqa: E402
from merlin_poeem.plots import plot_quality  # noqa: E402
from workflows.comparison import OURS, Comparison  # noqa: E402

N_ITEMS, DIM, K = 600, 8, 10
KEYS = [
    "method",
    "seed",
    "recall_at_20",
    "n_lists",
    "pq_dim",
    "pq_bits",
    "n_probes",
    "bytes_per_item",
    "max_over_mean_list",
    "items_scanned",
    "build_seconds",
    "microseconds_per_query",
]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return normalize(np.random.default_rng(0).normal(size=(N_ITEMS, DIM)).astype(np.float32))


@pytest.fixture(scope="module")
def comparison(vectors: np.ndarray) -> Comparison:
    item_ids = np.arange(N_ITEMS) + (1 << 41)
    queries = vectors[:50]
    relevant = [
        row[:3] for row in exact_search(item_ids, vectors, queries, k=3).padded(3, fill_id=0)[1]
    ]
    exclude = item_ids[:50, None]  # the best result of each: itself

    def quality(found: Candidates) -> dict[str, float]:
        return {"recall_at_20": recall_at_k(found, relevant, K)}

    table = Comparison(queries, K, (1, 4, 99), quality, seed=5, exclude=exclude)
    table.add_exact("exact", item_ids, vectors)
    table.add_faiss("Faiss IVF-PQ", "IVF4,PQ4", item_ids, vectors)
    params = IVFPQParams(n_lists=4, pq_dim=4, metric="cosine")
    index = Index.from_vectors(params, fit(params, vectors), item_ids, vectors)
    table.add_index(OURS, index, build_seconds=1.5)
    return table


def test_rows_have_the_fixed_keys(comparison: Comparison) -> None:
    assert all(list(row) == KEYS for row in comparison.rows)
    assert {row["seed"] for row in comparison.rows} == {5}


def test_a_row_per_method_and_n_probes_within_the_lists(comparison: Comparison) -> None:
    found = [(row["method"], row["n_probes"]) for row in comparison.rows]
    quantized = [(name, n) for name in ("Faiss IVF-PQ", OURS) for n in (1, 4)]
    assert found == [("exact", None), *quantized]


def test_excluded_items_are_found_by_no_method(comparison: Comparison) -> None:
    # Of three relevant items the first, the query itself, is excluded.
    assert comparison.rows[0]["recall_at_20"] == pytest.approx(2 / 3)
    assert max(row["recall_at_20"] for row in comparison.rows) <= 2 / 3 + 1e-9


def test_costs(comparison: Comparison) -> None:
    exact, *_, ours = comparison.rows
    assert (exact["bytes_per_item"], exact["items_scanned"]) == (4 * DIM, N_ITEMS)
    # Four of codes, and the scale.
    assert (ours["bytes_per_item"], ours["items_scanned"]) == (5, N_ITEMS)
    assert ours["build_seconds"] == 1.5
    assert ours["max_over_mean_list"] >= 1


def test_table_is_aligned_text(comparison: Comparison) -> None:
    lines = comparison.table().split("\n")
    assert len(lines) == 1 + len(comparison.rows)
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["method", "n_probes", "recall_at_20"]
    assert " all " in lines[1]


def test_saves_rows_and_versions(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.json"
    comparison.save(path)
    saved = json.loads(path.read_text())
    assert saved["rows"] == comparison.rows
    assert saved["versions"]["numpy"] == np.__version__


def test_plots(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.png"
    plot_quality(comparison.rows, "recall_at_20", "A title", path)
    assert path.read_bytes().startswith(b"\x89PNG")
