"""The README's example runs as it stands there, but for smaller batches."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("tensorflow")

from merlin.io import Dataset
from merlin.schema import Schema, Tags

from merlin_poeem.blocks import tower_fingerprints
from workflows.id_column import id_column

README = Path(__file__).resolve().parents[2] / "README.md"
N_USERS, N_ITEMS = 200, 300
BATCH_SIZE = 128
# Five epochs of these make a few steps more than the quantizer's warm-up of 1000, and its sample.
N_PAIRS = 202 * BATCH_SIZE


def test_the_example_runs(tmp_path: Path) -> None:
    example, saving = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example.count("batch_size=1024") == 1
    example = example.replace("batch_size=1024", f"batch_size={BATCH_SIZE}")
    rng = np.random.default_rng(0)
    user_ids = rng.integers(0, N_USERS, N_PAIRS)
    item_ids = (user_ids + rng.integers(0, 20, N_PAIRS)) % N_ITEMS
    schema = Schema(
        [
            id_column("user_id", N_USERS, Tags.USER, Tags.USER_ID),
            id_column("item_id", N_ITEMS, Tags.ITEM, Tags.ITEM_ID),
        ]
    )
    pairs = pd.DataFrame({"user_id": user_ids, "item_id": item_ids})
    users = pd.DataFrame({"user_id": np.arange(N_USERS)})
    users["seen_items"] = [np.array([user]) for user in users["user_id"]]
    names = {
        "train": Dataset(pairs, schema=schema),
        "items": pd.DataFrame({"item_id": np.arange(N_ITEMS)}),
        "users": users,
    }
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        exec(compile(example, str(README), "exec"), names)
        trained = names["model"]
        exec(compile(saving, str(README), "exec"), names)
    finally:
        os.chdir(here)
    assert names["model"] is not trained
    assert tower_fingerprints(names["model"]) == tower_fingerprints(trained)
    found = names["found"]
    assert list(found.columns) == ["user_id", "rank", "item_id", "score"]
    assert found.groupby("user_id").size().max() <= 20
    assert (found["item_id"] != found["user_id"]).all()
    # The items of a user are the twenty after its own number.
    right = (found["item_id"] - found["user_id"]) % N_ITEMS < 20
    assert right.mean() > 0.5
