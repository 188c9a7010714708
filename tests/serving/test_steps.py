"""The steps of a workflow in NumPy: nulls, dtypes, and the way into JSON and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merlin_poeem.serving.steps import (
    Bucketize,
    Clip,
    Fill,
    Log,
    Lookup,
    Scale,
    load_step,
    save_step,
)
from merlin_poeem.serving.vocabulary import Vocabulary

NAN = np.nan
TEXTS = Lookup(Vocabulary.of(np.array(["b", "a"], object), np.array([3, 4])), null=1, unknown=2)
FLOATS = Lookup(Vocabulary.of(np.array([0.5, 9.0]), np.array([3, 4])), null=1, unknown=2)


@pytest.mark.parametrize(
    ("step", "values", "expected", "dtype"),
    [
        (Fill(7), np.array([1.0, NAN], np.float32), [1, 7], "float32"),
        (Fill(7), np.array([1, 2]), [1, 2], "int64"),
        (Fill("?"), np.array(["a", ""], object), ["a", "?"], "object"),
        (Clip(0, None), np.array([-1.0, 2.0, NAN]), [0, 2, NAN], "float64"),
        (Clip(None, 1), np.array([-1, 2]), [-1, 1], "int64"),
        (Scale(2.0, 4.0, "float32"), np.array([2, 4]), [0, 0.5], "float32"),
        (Log(), np.array([0.0, -1.0, -2.0]), [0, -np.inf, NAN], "float32"),
        (Bucketize((0.0, 10.0)), np.array([-1, 0, 9, 10]), [0, 1, 1, 2], "int32"),
        (TEXTS, np.array(["a", "", "c", "b"], object), [4, 1, 2, 3], "int64"),
        (FLOATS, np.array([9.0, NAN, 1.0]), [4, 1, 2], "int64"),
        (FLOATS, np.array([9, 1]), [4, 2], "int64"),
    ],
)
def test_a_step_and_what_was_saved_of_it(
    tmp_path: Path, step: Any, values: Any, expected: list[Any], dtype: str
) -> None:
    told = json.loads(json.dumps(save_step(step, tmp_path, "vocabulary")))
    for one in (step, load_step(told, tmp_path)):
        made = one.apply(values)
        assert made.dtype == dtype
        np.testing.assert_array_equal(made, np.array(expected, made.dtype))


def test_values_are_not_written_to() -> None:
    values = np.array([1.0, NAN])
    values.setflags(write=False)
    for step in (Fill(0), Clip(2, 3), Scale(1.0, 2.0, "float64"), Log(), Bucketize((1.0,)), FLOATS):
        step.apply(values)


def test_a_step_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="Hash"):
        load_step({"step": "Hash"}, tmp_path)
