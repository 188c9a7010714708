"""The Python of the pages that train, export and serve, on the toy model where one is enough."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow")

import nvtabular as nvt
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem import save_index
from merlin_poeem.blocks import IVFPQQuantizer, export_index, tower_fingerprints
from merlin_poeem.ops import AssignCodes
from tests.blocks import toy
from tests.docs.pages import DOCS, python_blocks, run_page
from tests.docs.test_choosing import rows_of_lists

USERS = toy.USERS.assign(seen=[[user % toy.N_ITEMS] for user in range(toy.N_USERS)])


def taken_for_granted() -> dict[str, Any]:
    """What the pages on a trained model call it, its frames and a batch."""
    return {
        "model": toy.trained_model(toy.v2),
        "items": toy.ITEMS,
        "users": USERS,
        "validation_users": USERS,
        "train": Dataset(toy.interactions(), schema=toy.SCHEMA),
        "features": {"user_id": tf.constant([[3], [4]], tf.int64)},
        "relevant": [[user % toy.N_ITEMS] for user in range(toy.N_USERS)],
    }


def test_rows_before_the_start() -> None:
    for n_items, n_lists, *_, rows in rows_of_lists():
        quantizer = IVFPQQuantizer.for_catalog(n_items, 64)
        assert (quantizer.params.n_lists, quantizer.sample_size) == (n_lists, rows)


def test_beside_merlin(tmp_path: Path) -> None:
    trained = toy.trained_model(toy.v2)
    save_index(export_index(trained, toy.ITEMS), tmp_path / "items.index")
    workflow = nvt.Workflow(["item_id"] >> AssignCodes(tmp_path / "items.index"))
    workflow.fit(Dataset(toy.ITEMS)).save(str(tmp_path / "workflow"))
    # One step, which takes longer to trace than to do.
    instead = {'compile("adam")': 'compile("adam", metrics=[], run_eagerly=True)'}
    names = run_page("merlin.md", tmp_path, taken_for_granted(), instead)
    assert names["index"].vectors.dtype == "int8"
    assert tower_fingerprints(names["model"]) != tower_fingerprints(trained)  # trained on


def test_migrating(tmp_path: Path) -> None:
    names = run_page("migrating.md", tmp_path, taken_for_granted())
    assert len(names["found"]) == toy.N_USERS
    assert (tmp_path / "encoder" / "saved_model.pb").is_file()


def test_what_tables_of_migrating_call_ours_is_in_code_that_runs() -> None:
    code = "\n".join(python_blocks("migrating.md"))
    calls = []
    for row in re.findall(r"^\|.*", (DOCS / "migrating.md").read_text(), re.MULTILINE):
        calls += re.findall(r"`([^`]*\w\([^`]*)`", row.split("|")[2])
    assert len(calls) > 30
    assert [call for call in calls if call not in code] == []


def test_serving(tmp_path: Path) -> None:
    names = run_page("serving.md", tmp_path, taken_for_granted())
    assert names["served"].version == 2
    assert "count: 2" in (tmp_path / "busy" / "retrieval" / "config.pbtxt").read_text()
    assert (tmp_path / "looks-again" / "retrieval" / "1").is_dir()
    assert names["tuned"].setting.quality > 0.9


def test_serving_on_older_servers(tmp_path: Path) -> None:
    pytest.importorskip("merlin.systems")
    names = run_page("serving_tensorflow.md", tmp_path, taken_for_granted())
    for folder in ("repository", "own-repository"):
        assert (tmp_path / folder / "executor_model" / "config.pbtxt").is_file()
    assert list(names["repository"].configs) == ["retrieval"]
