"""SeenQueries: shows a quantizer the queries, which its own tower has not."""

from __future__ import annotations

import tensorflow as tf

from merlin_poeem.blocks.model.beside_towers import BesideTowers


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class SeenQueries(BesideTowers):
    """Passes the outputs of both towers on; in training the quantizer sees the queries.

    They tell it what its lists and codes have to be good for: see ``stretch`` of
    :class:`~merlin_poeem.blocks.IVFPQQuantizer`. It is in the ``post`` of both towers, put there by
    ``QuantizedTwoTowerModel`` and its V2.
    """

    def look(self, queries: tf.Tensor, items: tf.Tensor) -> None:
        """Show the quantizer the queries."""
        self.quantizer.see_queries(queries)
