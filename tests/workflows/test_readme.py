"""The README's examples run as they stand there, but for smaller batches."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("tensorflow")

from merlin_poeem.blocks import tower_fingerprints

README = Path(__file__).resolve().parents[2] / "README.md"
N_USERS, N_ITEMS = 200, 300
BATCH_SIZE = 128
# Five epochs of these make a few steps more than the quantizer's warm-up of 1000, and its sample.
N_PAIRS = 202 * BATCH_SIZE


def test_the_examples_run(tmp_path: Path) -> None:
    example, *others = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example.count("batch_size=1024") == 1
    example = example.replace("batch_size=1024", f"batch_size={BATCH_SIZE}")
    rng = np.random.default_rng(0)
    users = rng.integers(0, N_USERS, N_PAIRS)
    items = (users + rng.integers(0, 20, N_PAIRS)) % N_ITEMS
    named_items, named_users = (
        np.array([f"i{i}" for i in range(N_ITEMS)], object),
        np.array([f"u{i}" for i in range(N_USERS)], object),
    )
    names = {
        "pairs": pd.DataFrame({"user_id": named_users[users], "item_id": named_items[items]}),
        "items": pd.DataFrame(
            {
                "item_id": named_items,
                "brand": [f"b{i % 7}" for i in range(N_ITEMS)],
                "title": [f"title of i{i}" for i in range(N_ITEMS)],
            }
        ),
        "users": pd.DataFrame(
            {"user_id": named_users, "seen_items": [[f"i{i}"] for i in range(N_USERS)]}
        ),
    }
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        exec(compile(example, str(README), "exec"), names)
        trained = names["model"]
        for other in others:
            exec(compile(other, str(README), "exec"), names)
    finally:
        os.chdir(here)
    assert names["model"] is not trained
    assert tower_fingerprints(names["model"]) == tower_fingerprints(trained)
    found = names["found"]
    assert list(found.columns) == ["user_id", "rank", "item_id", "score", "title"]
    assert (found["title"] == "title of " + found["item_id"]).all()
    assert found.groupby("user_id").size().max() <= 20
    user, item = (found[name].str[1:].astype(int) for name in ("user_id", "item_id"))
    assert (item != user).all()
    # The items of a user are the twenty after its own number.
    assert ((item - user) % N_ITEMS < 20).mean() > 0.5
    assert names["near"].columns.tolist() == ["like", "rank", "item_id", "score", "title"]
    assert len(names["near"]) == 5
