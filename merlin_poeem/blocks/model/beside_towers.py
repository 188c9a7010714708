"""BesideTowers: a block that looks at what both towers return, and passes it on."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from merlin.models.tf.core.base import Block

from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer


class BesideTowers(Block):
    """In training its ``look`` is shown the queries and the items that they want.

    It is in the ``post`` of both towers, put there by ``QuantizedTwoTowerModel`` and its V2.
    """

    def __init__(self, quantizer: IVFPQQuantizer | None = None, **kwargs: Any) -> None:
        """``quantizer`` is the item tower's own; of a loaded model Keras sets it anew."""
        super().__init__(**kwargs)
        if quantizer is not None:
            self.quantizer = quantizer

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """``inputs`` unchanged: (batch, dim) tensors of the query tower and of the item tower."""
        if training:
            self.look(*inputs.values())
        return inputs

    def look(self, queries: tf.Tensor, items: tf.Tensor) -> None:
        """At (batch, dim) outputs of the two towers, raw space."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shapes."""
        return input_shape
