"""What the towers of every data set share: the temperature of their loss, and their steps."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from merlin.models.tf.core.base import PredictionOutput  # noqa: E402

from merlin_poeem.blocks import Temperature  # noqa: E402
from workflows.training import n_steps  # noqa: E402


def test_temperature_divides_the_logits() -> None:
    outputs = PredictionOutput(predictions=tf.constant([[1.0, -2.0]]), targets=None)
    scaled = Temperature(0.5).call_outputs(outputs, training=True)
    np.testing.assert_array_equal(scaled.predictions, [[2.0, -4.0]])


def test_the_last_batch_of_an_epoch_may_be_short() -> None:
    assert [n_steps(n, batch_size=10, epochs=3) for n in (1, 10, 11)] == [3, 3, 6]
