"""SeenQueries: shows a quantizer the queries, which its own tower has not."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from merlin.models.tf.core.base import Block

from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class SeenQueries(Block):
    """Passes the outputs of both towers on; in training the quantizer sees the queries.

    They tell it what its lists and codes have to be good for: see ``stretch`` of
    :class:`~merlin_poeem.blocks.IVFPQQuantizer`. It is in the ``post`` of both towers, put there by
    ``QuantizedTwoTowerModel`` and its V2.
    """

    def __init__(self, quantizer: IVFPQQuantizer | None = None, **kwargs: Any) -> None:
        """``quantizer`` is the item tower's own; of a loaded model Keras sets it anew."""
        super().__init__(**kwargs)
        if quantizer is not None:
            self.quantizer = quantizer

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """``inputs`` unchanged: (batch, dim) tensors of the query tower and of the item tower."""
        if training:
            queries, _ = inputs.values()
            self.quantizer.see_queries(queries)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shapes."""
        return input_shape
