"""MovieLens' whole job, tiny and real: trained, compared, recommended by title."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("tensorflow")

from merlin_poeem import load_index, open_searcher
from tests.workflows.movielens.published import LATIN, N_FILMS
from workflows import recommend
from workflows.movielens import __main__ as command

ROW_KEYS = {
    "method",
    "seed",
    "n_lists",
    "pq_dim",
    "pq_bits",
    "n_probes",
    "bytes_per_item",
    "recall_at_20",
    "ndcg_at_20",
    "max_over_mean_list",
    "items_scanned",
    "build_seconds",
}


def test_tiny(
    variant_and_folder: tuple[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    variant, folder = variant_and_folder
    results = tmp_path / "results"
    options = ["--variant", variant, "--data", str(folder), "--results", str(results)]
    command.main([*options, "--epochs", "14", "--batch-size", "128"])
    printed = capfd.readouterr().out
    assert "quantized_recall_at_20" in printed
    assert "This process has not loaded TensorFlow." in printed
    assert "For user 1\n" in printed
    assert f"Like {LATIN}" in printed

    saved = json.loads((results / f"demo_movielens-{variant}.json").read_text())
    assert all(set(row) >= ROW_KEYS for row in saved["rows"])
    methods = ["exact", "Faiss IVF-PQ", "Faiss OPQ+IVF-PQ", "merlin_poeem"]
    assert list(dict.fromkeys(row["method"] for row in saved["rows"])) == methods
    assert saved["versions"]["merlin-models"] == "23.12.0"
    assert (results / f"demo_movielens-{variant}.png").stat().st_size > 10_000

    index = load_index(results / f"{folder.name}.index")
    assert index.item_table["title"].tolist()[0] == LATIN
    users = pd.read_parquet(results / f"{folder.name}.queries.parquet")
    searcher = open_searcher(index.with_n_probes(index.n_lists))
    found = recommend.for_users(searcher, users, 5)
    assert found["user_id"].value_counts().tolist() == [5] * len(users)
    seen = dict(zip(users["user_id"], users["seen"], strict=True))
    assert not any(row.item_id in seen[row.user_id] for row in found.itertuples())
    # Users rate only their half of the catalog, so the model must recommend from it.
    assert ((found["item_id"] > N_FILMS // 2) == (found["user_id"] % 2)).mean() > 0.9
    alike = recommend.like_items(searcher, [LATIN], 5)
    assert LATIN not in alike["title"].tolist()
    with pytest.raises(ValueError, match=r"titles of the item table, got \['Nothing'\]"):
        recommend.like_items(searcher, ["Nothing"], 5)


def test_bad_data_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["--variant", "1m", "--data", str(tmp_path / "absent")])
    assert end.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_real_100k(dataset_dir: Callable[[str], Path], tmp_path: Path) -> None:
    options = ["--variant", "100k", "--data", str(dataset_dir("ml-100k"))]
    command.main([*options, "--epochs", "3", "--results", str(tmp_path)])
    rows = json.loads((tmp_path / "demo_movielens-100k.json").read_text())["rows"]
    best = {row["method"]: row["recall_at_20"] for row in rows}  # the last: all lists probed
    assert best["exact"] > 0.25  # popularity alone: 0.15
    assert best["merlin_poeem"] > 0.97 * best["exact"]
    assert best["merlin_poeem"] > best["Faiss IVF-PQ"]
