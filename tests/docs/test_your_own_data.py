"""The page that goes from parquet files to a trained index runs on small files of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("tensorflow")

from merlin_poeem.blocks.quantizer import warm_start
from tests.docs.pages import run_page

N_USERS, N_ITEMS, N_CLICKS = 200, 120, 12_000
COUNTRIES = np.array(["fr", "jp", "pe"])


def write_files(folder: Path) -> None:
    """Users like the items after their own number; ids are texts."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, N_USERS, N_CLICKS)
    items = (users + rng.integers(0, 10, N_CLICKS)) % N_ITEMS
    clicks = {
        "user_id": [f"user-{user}" for user in users],
        "item_id": [f"item-{item}" for item in items],
        "country": COUNTRIES[users % 3],
    }
    pd.DataFrame(clicks).to_parquet(folder / "clicks.parquet")
    numbers = np.arange(N_ITEMS)
    catalog = {
        "item_id": [f"item-{item}" for item in numbers],
        "category": numbers % 7,
        "title": [f"Item number {item}" for item in numbers],
    }
    pd.DataFrame(catalog).to_parquet(folder / "items.parquet")


def test_from_parquet_to_a_trained_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "ITERATIONS", 3)
    write_files(tmp_path)
    names = run_page("your_own_data.md", tmp_path, {})
    assert names["quantizer"].health().dead_lists < 0.5
    found = names["found"]
    assert list(found.columns) == ["user_id", "rank", "item_id", "score", "title"]
    of_seen = found[found["user_id"] == "user-3"]
    assert len(of_seen) == 10
    assert "item-3" not in set(of_seen["item_id"])
    assert (found["title"] == found["item_id"].str.replace("item-", "Item number ")).all()
