"""ListAgreement: what a query visits and where its items are learn from each other."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from merlin.models.tf.core.base import Block

from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class ListAgreement(Block):
    """Passes the outputs of both towers on, and adds a loss in training.

    −log Σ_l p(l | q) p(l | x), the mean over the batch's pairs of a query and the item it wants:
    how improbable it is that the query's first list is the item's. p(l | x) falls with the distance
    to the list's centroid, p(l | q) grows with the score by which a search chooses lists. Few
    probes then find what many find. It trains the towers only, as centroids are moving means; the
    quantizer's ``balance`` keeps all from going into one list.

    It is the ``post`` of both towers, put there by ``QuantizedTwoTowerModel`` and its V2.
    """

    def __init__(self, quantizer: IVFPQQuantizer | None = None, **kwargs: Any) -> None:
        """``quantizer`` is the item tower's own; of a loaded model Keras sets it anew."""
        super().__init__(**kwargs)
        if quantizer is not None:
            self.quantizer = quantizer

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """``inputs`` unchanged: (batch, dim) tensors of the query tower and of the item tower."""
        if training:
            queries, items = inputs.values()
            self.add_loss(self.quantizer.agreement * self.quantizer.disagreement(queries, items))
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shapes."""
        return input_shape
