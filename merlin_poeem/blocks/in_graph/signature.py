"""What a search in the graph is asked for, and what it returns, as tensors."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import tensorflow as tf
from merlin.models.tf.core.prediction import TopKPrediction


class CountedTopK(NamedTuple):
    """What :class:`IVFPQTopK` returns: Merlin's ``TopKPrediction``, and how much of it is real."""

    scores: tf.Tensor
    """(n_queries, k) float32, falling; −inf beyond the row's count."""

    identifiers: tf.Tensor
    """(n_queries, k) int64 item ids; ``FILL_ID`` beyond the row's count."""

    counts: tf.Tensor
    """(n_queries,) int64, results per query; fewer than k where the candidates ran out."""

    def to_df(self) -> pd.DataFrame:
        """Merlin's columns ``score_0`` … ``id_0`` …, and ``count``, which tells fill from result.

        Without the loop over cells of ``TopKPrediction.to_df``.
        """
        scores, item_ids = self.scores.numpy(), self.identifiers.numpy()
        k = scores.shape[1]
        names = TopKPrediction.output_names(k)
        frames = [
            pd.DataFrame(scores, columns=names[:k]),
            pd.DataFrame(item_ids, columns=names[k:]),
            pd.DataFrame({"count": self.counts.numpy()}),
        ]
        return pd.concat(frames, axis=1)


def request_specs(dim: int) -> list[tf.TensorSpec]:
    """What :func:`~merlin_poeem.blocks.in_graph.search.search` is asked for, in order."""
    ids = ("exclude", "exclude_offsets", "allow", "allow_offsets")
    return [
        tf.TensorSpec((None, dim), tf.float32, "queries"),
        tf.TensorSpec((), tf.int32, "k"),
        tf.TensorSpec((), tf.int32, "n_probes"),
        tf.TensorSpec((), tf.int32, "refine"),
        *(tf.TensorSpec((None,), tf.int64, name) for name in ids),
    ]
