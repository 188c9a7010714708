"""The columns of requests as a tower's tensors, without TensorFlow or Merlin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem.serving.features import TowerFeature
from merlin_poeem.serving.input_spec import InputSpec
from merlin_poeem.serving.raw_columns import COLUMNS_FILE, RawColumns, Way
from merlin_poeem.serving.steps import Clip, Lookup
from merlin_poeem.serving.tower_facts import TowerFacts
from merlin_poeem.serving.towers import check_tensors
from merlin_poeem.serving.vocabulary import Vocabulary

FEATURES = (
    TowerFeature("user_id", "int64", 0, 9),
    TowerFeature("genres", "int64", None, 4),
    TowerFeature("home", "int32", 2, 4),
    TowerFeature("age", "float32", 0),
)


def given() -> dict[str, Any]:
    return {
        "user_id": (np.array([3, 9, 0]), None),
        "genres": (np.array([1, 4, 0]), np.array([0, 2, 2, 3])),
        "home": (np.arange(6, dtype=np.int32).reshape(3, 2) % 5, None),
        "age": (np.array([0.5, 1.5, -2.0], np.float32), None),
    }


@pytest.fixture
def plain(tmp_path: Path) -> RawColumns:
    """Of a tower whose requests hold its features."""
    TowerFacts("onnx", "", 8, "0" * 16, FEATURES).save(tmp_path)
    return RawColumns.load(tmp_path)


def test_features_that_are_sent_as_they_are(plain: RawColumns) -> None:
    assert plain.inputs == [
        InputSpec("user_id", "int64"),
        InputSpec("genres", "int64", None),
        InputSpec("home", "int32", 2),
        InputSpec("age", "float32"),
    ]
    tensors = plain.tensors(given())
    assert check_tensors(FEATURES, tensors) == 3
    assert tensors["genres__values"].tolist() == [1, 4, 0]
    assert tensors["genres__offsets"].tolist() == [0, 2, 2, 3]
    np.testing.assert_array_equal(tensors["home"], given()["home"][0])


def test_no_rows(plain: RawColumns) -> None:
    none = {name: (values[:0], offsets) for name, (values, offsets) in given().items()}
    none["genres"] = none["genres"][0], np.zeros(1, np.int64)
    assert check_tensors(FEATURES, plain.tensors(none)) == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"age": None}, ValueError, r"columns: expected \['age', .*\], got \['genres', "),
        ({"other": (np.arange(3), None)}, ValueError, "columns: expected .*, got .*'other'"),
        ({"user_id": (np.arange(3.0), None)}, TypeError, "'user_id': expected int64, got float64"),
        ({"user_id": (np.arange(2), None)}, ValueError, "same number of rows in all, got .*: 2"),
        (
            {"user_id": (np.array([1, 10, 11]), None)},
            ValueError,
            "'user_id': expected values from 0 to 9, the schema's domain, got 10 in row 1",
        ),
        (
            {"genres": (np.array([1, 2, -1]), np.array([0, 2, 2, 3]))},
            ValueError,
            "'genres': expected values from 0 to 4, the schema's domain, got -1 in row 2",
        ),
        (
            {"home": (np.array([[0, 1], [2, 3], [4, 5]], np.int32), None)},
            ValueError,
            "'home': expected values from 0 to 4, the schema's domain, got 5 in row 2",
        ),
        (
            {"home": (np.zeros((3, 3), np.int32), None)},
            ValueError,
            r"'home': expected shape \('n',",
        ),
        ({"genres": (np.arange(3), None)}, ValueError, "'genres': expected offsets, as its lists"),
        ({"user_id": (np.arange(3), np.arange(4))}, ValueError, "'user_id': expected no offsets"),
        (
            {"age": (np.array([0, np.nan, 0], np.float32), None)},
            ValueError,
            "'age': expected finite values, got nan in row 1",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    plain: RawColumns, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    columns = {name: column for name, column in {**given(), **change}.items() if column is not None}
    with pytest.raises(error, match=message):
        plain.tensors(columns)


def lookup(values: Any, *, null: int = 1) -> Lookup:
    return Lookup(Vocabulary.of(values, np.arange(3, 3 + len(values))), null=null, unknown=2)


def raw_columns() -> RawColumns:
    """Texts, integers and lists of texts that are looked up."""
    users = np.array(["ann", "bo", "çelik"], object)
    ways = [
        Way(FEATURES[0], "name", (lookup(users),)),
        Way(FEATURES[1], "words", (lookup(np.array(["x", "y"], object), null=2),)),
        Way(FEATURES[2], "places", (lookup(np.array([50, 60])),)),
        Way(FEATURES[3], "age", (Clip(0.0, 1.0),)),
    ]
    inputs = [
        InputSpec("name", "string", optional=True),
        InputSpec("words", "string", None),
        InputSpec("places", "int64", 2),
        InputSpec("age", "float32"),
    ]
    return RawColumns(inputs, ways, {"name": None})


@pytest.fixture
def raw(tmp_path: Path) -> RawColumns:
    """Saved and loaded."""
    TowerFacts("onnx", "", 8, "0" * 16, FEATURES).save(tmp_path)
    raw_columns().save(tmp_path)
    return RawColumns.load(tmp_path)


def sent() -> dict[str, Any]:
    return {
        "name": (np.array(["bo", "", "nobody"], object), None),
        "words": (np.array(["y", "", "z"], object), np.array([0, 0, 2, 3])),
        "places": (np.array([[50, 60], [60, 7], [8, 50]]), None),
        "age": (np.array([0.5, 1.5, -2.0], np.float32), None),
    }


def test_raw_values_become_features(raw: RawColumns) -> None:
    expected = {
        "user_id": [4, 1, 2],
        "genres__values": [4, 2, 2],
        "genres__offsets": [0, 0, 2, 3],
        "home": [[3, 4], [4, 2], [2, 3]],
        "age": [0.5, 1, 0],
    }
    assert raw.inputs == raw_columns().inputs
    for columns in (raw, raw_columns()):
        tensors = columns.tensors(sent())
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == expected
        assert check_tensors(FEATURES, tensors) == 3


def test_texts_as_triton_sends_them(raw: RawColumns) -> None:
    names = np.array([text.encode() for text in ("çelik", "ann", "")], object)
    assert raw.tensors({**sent(), "name": (names, None)})["user_id"].tolist() == [5, 3, 1]
    names[1] = b"\xff\xfe"
    with pytest.raises(ValueError, match=r"'name': expected texts in UTF-8, got b'.* as value 1"):
        raw.tensors({**sent(), "name": (names, None)})
    for names in (np.arange(3), np.array([1, 2, 3], object)):
        with pytest.raises(TypeError, match="'name': expected texts, got"):
            raw.tensors({**sent(), "name": (names, None)})


def test_a_column_that_is_not_sent(raw: RawColumns) -> None:
    columns = sent()
    del columns["name"]
    assert raw.tensors(columns)["user_id"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="columns: expected"):
        raw.tensors({"name": sent()["name"]})


def test_columns_that_are_damaged(raw: RawColumns, tmp_path: Path) -> None:
    path = tmp_path / COLUMNS_FILE
    told = json.loads(path.read_text())
    for change, message in (
        ({"format_version": 2}, "version 1, and its vocabularies; got 'merlin.*', version 2"),
        ({"ways": [{"feature": "other"}]}, "got 'other'"),
        ({"inputs": [{"nam": "x"}]}, "got .*unexpected keyword"),
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(ValueError, match=message):
            RawColumns.load(tmp_path)
    path.write_text(json.dumps(told))
    (tmp_path / "vocabulary-0-0-keys.npy").unlink()
    with pytest.raises(ValueError, match=r"and its vocabularies; got .*No such file"):
        RawColumns.load(tmp_path)
