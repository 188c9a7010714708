"""The softmax temperature for ``mm.TwoTowerModel``, whose own argument has no effect."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from merlin.models.tf.core.base import PredictionOutput
from merlin.models.tf.transforms.bias import LogitsTemperatureScaler


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class Temperature(LogitsTemperatureScaler):
    """Divides the logits by ``temperature``: the ``post_logits`` of an ``mm.ItemRetrievalTask``.

    Merlin's own layer scales only what ``TwoTowerModelV2`` hands it and leaves the logits of
    ``TwoTowerModel`` as they are. Cosines, between −1 and 1, then hardly learn.
    """

    def call_outputs(self, outputs: PredictionOutput, **kwargs: Any) -> PredictionOutput:
        """The same outputs with other logits."""
        return outputs.copy_with_updates(predictions=outputs.predictions / self.temperature)
