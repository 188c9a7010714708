"""What Merlin's evaluation compares: scores, and whether each place holds the right item."""

from __future__ import annotations

import tensorflow as tf
from merlin.models.tf.core.prediction import Prediction

from merlin_poeem.blocks.in_graph.signature import CountedTopK


def relevance(found: CountedTopK, targets: tf.Tensor | None) -> Prediction:
    """Scores, finite, and whether each place holds the query's target, (n_queries, k) float32."""
    if targets is None:
        raise ValueError("targets: expected the item id of each query in evaluation, got None")
    if isinstance(targets, tf.RaggedTensor):
        mask = targets._keras_mask.with_row_splits_dtype(targets.row_splits.dtype)
        targets = tf.ragged.boolean_mask(targets, mask).to_tensor()
    targets = tf.reshape(tf.cast(targets, tf.int64), (-1, 1))
    is_result = tf.sequence_mask(found.counts, tf.shape(found.scores)[1])
    is_target = tf.equal(found.identifiers, targets) & is_result
    # A loss that multiplied −inf by 0 would be NaN.
    scores = tf.maximum(found.scores, tf.float32.min)
    return Prediction(scores, tf.cast(is_target, tf.float32))
