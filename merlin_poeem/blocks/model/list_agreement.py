"""ListAgreement: what a query visits and where its items are learn from each other."""

from __future__ import annotations

import tensorflow as tf

from merlin_poeem.blocks.model.beside_towers import BesideTowers


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class ListAgreement(BesideTowers):
    """Passes the outputs of both towers on, and adds a loss in training.

    −log Σ_l p(l | q) p(l | x), the mean over the batch's pairs of a query and the item it wants:
    how improbable it is that the query's first list is the item's. p(l | x) falls with the distance
    to the list's centroid, p(l | q) grows with the score by which a search chooses lists. Few
    probes then find what many find. It trains the towers only, as centroids are moving means; the
    quantizer's ``balance`` keeps all from going into one list.

    It is the ``post`` of both towers, put there by ``QuantizedTwoTowerModel`` and its V2.
    """

    def look(self, queries: tf.Tensor, items: tf.Tensor) -> None:
        """Add the loss."""
        self.add_loss(self.quantizer.agreement * self.quantizer.disagreement(queries, items))
