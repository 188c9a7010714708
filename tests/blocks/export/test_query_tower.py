"""Saved query towers: the vectors of the model, from frames, without the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import merlin.models.tf as mm
import numpy as np
import pytest
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.blocks import query_vectors
from merlin_poeem.blocks.export.features import features_of
from merlin_poeem.blocks.export.query_tower import (
    HEADER_FILE,
    QueryTower,
    load_query_tower,
    save_query_tower,
)
from merlin_poeem.blocks.model.freshness import tower_fingerprints
from tests.systems.toy import DIM, N_ITEMS, N_USERS, SCHEMA, USERS, features, mlp


def v1():
    return mm.TwoTowerModel(SCHEMA, mlp())


def v2():
    user, item = (SCHEMA.select_by_tag(tag) for tag in (Tags.USER, Tags.ITEM))
    return mm.TwoTowerModelV2(mm.Encoder(user, mlp()), mm.Encoder(item, mlp()), schema=SCHEMA)


@pytest.fixture(scope="module", params=[v1, v2], ids=["V1", "V2"])
def model(request):
    """Called, not trained, and without a quantizer: a tower needs neither."""
    tf.keras.utils.set_random_seed(0)
    model = request.param()
    row = USERS[:2].assign(item_id=[0, 1])
    model(next(iter(mm.Loader(Dataset(row, schema=SCHEMA), batch_size=2)))[0])
    return model


@pytest.fixture(scope="module")
def vectors(model) -> np.ndarray:
    return query_vectors(model, USERS)[1]


@pytest.fixture(scope="module")
def tower_path(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "tower"
    save_query_tower(model, path)
    return path


@pytest.fixture(scope="module")
def tower(tower_path: Path) -> QueryTower:
    return load_query_tower(tower_path)


def test_the_saved_tower_is_the_models(model, tower, vectors):
    assert tower.dim == DIM
    assert tower.fingerprint == tower_fingerprints(model)["query_tower"]
    shuffled = USERS[::-1].assign(other="text")
    for batch_size in (7, 1000):
        np.testing.assert_allclose(tower.vectors(shuffled, batch_size), vectors[::-1], atol=1e-6)
    assert tower.vectors(USERS[:0]).shape == (0, DIM)


def test_the_items_embeddings_are_not_saved_with_it(tower_path):
    saved = tf.train.list_variables(str(tower_path / "variables" / "variables"))
    rows = {shape[0] for _, shape in saved if shape}
    assert N_USERS in rows
    assert N_ITEMS not in rows


def test_values_that_the_tower_takes_as_they_are_meant(tower, vectors):
    same = USERS.astype({"user_id": "Int64", "age": "float64"}).assign(
        genres=[row.tolist() for row in USERS["genres"]],
        home=[row.astype(np.int32) for row in USERS["home"]],
    )
    np.testing.assert_allclose(tower.vectors(same), vectors, atol=1e-6)


SCRIPT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("merlin", "merlin_poeem"):
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Refuse())
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
given = np.load(sys.argv[2])
inputs = {name: tf.constant(given[name]) for name in given.files}
np.save(sys.argv[3], model.signatures["serving_default"](**inputs)["query_vector"])
"""


@pytest.mark.parametrize("model", [v1], indirect=True, ids=["V1"])
def test_the_saved_tower_runs_without_merlin(tower_path, vectors, tmp_path):
    np.savez(tmp_path / "given.npz", **features())
    arguments = [tower_path, tmp_path / "given.npz", tmp_path / "found.npy"]
    command = [sys.executable, "-I", "-c", SCRIPT, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=120)
    np.testing.assert_allclose(np.load(arguments[2]), vectors, atol=1e-6)


def test_a_saved_tower_is_replaced_and_nothing_else(model, tmp_path):
    for _ in range(2):
        save_query_tower(model, tmp_path / "tower")
    assert [path.name for path in tmp_path.iterdir()] == ["tower"]
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="expected a free name or a query tower to replace"):
        save_query_tower(model, tmp_path / "other")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match="got a link to nowhere"):
        save_query_tower(model, tmp_path / "link")


def test_what_is_no_saved_tower(tower_path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no query tower there"):
        load_query_tower(tmp_path / "nothing")
    with pytest.raises(ValueError, match="expected a saved query tower, got something else"):
        load_query_tower(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(tower_path, copy)
    header = json.loads((copy / HEADER_FILE).read_text())
    for change, message in (
        ({"format_version": 2}, "expected format version 1, got 2: saved by a newer release"),
        ({"magic": "another"}, "expected a saved query tower, got 'another'"),
    ):
        (copy / HEADER_FILE).write_text(json.dumps({**header, **change}))
        with pytest.raises(ValueError, match=message):
            load_query_tower(copy)


@pytest.mark.parametrize(
    ("users", "error", "message"),
    [
        (
            USERS.drop(columns=["age", "home"]),
            ValueError,
            r"expected the columns \['age', 'home'\]",
        ),
        (
            USERS.assign(user_id=USERS["user_id"].where(USERS["user_id"] != 3).astype("Int64")),
            ValueError,
            "'user_id': expected no nulls, got 1, first in row 3",
        ),
        (USERS.assign(user_id=0.5), TypeError, "'user_id': expected int64, got float64"),
        (USERS.assign(user_id=np.uint64(2**63)), ValueError, "expected values that fit in int64"),
        (USERS.assign(home=[[1, 2]] * 29 + [[1]]), ValueError, "lists of 2, got another length in"),
        (USERS.assign(genres=[[1]] * 29 + [None]), ValueError, "'genres': expected no nulls, got"),
        (USERS.assign(genres=1), TypeError, "'genres': expected lists"),
        (USERS.assign(age=np.float32("inf")), ValueError, "expected finite values"),
    ],
)
def test_frames_that_do_not_fit_the_tower(tower, users, error, message):
    with pytest.raises(error, match=message):
        tower.vectors(users)


def test_models_that_have_no_tower_to_save(tmp_path):
    with pytest.raises(TypeError, match="expected a Merlin two-tower model"):
        save_query_tower(tf.keras.Sequential(), tmp_path / "tower")
    schema = Schema([ColumnSchema("name", dtype="string")])
    with pytest.raises(ValueError, match="expected a dtype of numbers for column 'name', got str"):
        features_of(schema)
