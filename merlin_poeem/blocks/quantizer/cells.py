"""Cells: the lists and codewords of a quantizer, and how they follow the vectors they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from merlin_poeem.blocks.quantizer import coarse, moving_means, product


class CellValues(NamedTuple):
    """What the variables of :class:`Cells` hold, save the rotations."""

    coarse_centroids: tf.Tensor
    list_counts: tf.Tensor
    list_lengths: tf.Tensor
    codebook: tf.Tensor
    code_counts: tf.Tensor


@dataclass(frozen=True, eq=False)
class Cells:
    """What an index is made with, in a layer's variables. Where not said, vectors are rotated."""

    coarse_centroids: tf.Variable
    """(n_lists, dim) float32."""

    list_counts: tf.Variable
    """(n_lists,) float32: of the latest vectors, how many each list stands for."""

    list_lengths: tf.Variable
    """(n_lists,) float32: of the latest vectors, how long each list's are on average, as an index
    with item scales holds them: see :func:`lengths_along`."""

    codebook: tf.Variable
    """(pq_dim, pq_book_size, pq_len) float32."""

    code_counts: tf.Variable
    """(pq_dim, pq_book_size) float32: of the latest vectors, how many each codeword stands for."""

    rotation: tf.Variable
    """(dim, dim) float32, of items."""

    query_rotation: tf.Variable
    """(dim, dim) float32, of queries: the transposed inverse of ``rotation``; the same variable
    where that is orthogonal."""

    def rotate(self, vectors: tf.Tensor) -> tf.Tensor:
        """(n, dim) item vectors of the raw space, in that of the cells."""
        return tf.matmul(vectors, self.rotation)

    def rotate_queries(self, queries: tf.Tensor) -> tf.Tensor:
        """(n, dim) queries of the raw space, in that of the cells."""
        return tf.matmul(queries, self.query_rotation)

    def rotate_back(self, x_rot: tf.Tensor) -> tf.Tensor:
        """(n, dim) item vectors, back in the raw space."""
        return tf.matmul(x_rot, self.query_rotation, transpose_b=True)

    @do_not_convert
    def reconstruct(self, vectors: tf.Tensor) -> tf.Tensor:
        """x̂ of (n, dim) vectors, raw space both."""
        return self.rotate_back(self.decode(*self.encode(self.rotate(vectors))))

    def encode(self, x_rot: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """List ids (n,) and codes (n, pq_dim), int64, of (n, dim) vectors."""
        list_ids = coarse.nearest_lists(x_rot, self.coarse_centroids)
        residuals = x_rot - tf.gather(self.coarse_centroids, list_ids)
        return list_ids, product.nearest_codes(residuals, self.codebook)

    def decode(self, list_ids: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
        """(n, dim) reconstructions."""
        return tf.gather(self.coarse_centroids, list_ids) + product.decode(codes, self.codebook)

    def follow(
        self,
        x_rot: tf.Tensor,
        list_ids: tf.Tensor,
        codes: tf.Tensor,
        decoded: tf.Tensor,
        *,
        keep: tf.Tensor,
    ) -> None:
        """Move centroids, list lengths and codebook towards the (n, dim) vectors that they encoded.

        ``decoded`` (n, dim) are their reconstructions by what there was before. What came before
        counts ``keep`` as much: see :func:`.moving_means.follow`.
        """
        residuals = x_rot - tf.gather(self.coarse_centroids, list_ids)
        centroids, list_counts = moving_means.follow(
            self.coarse_centroids, self.list_counts, x_rot, list_ids, keep
        )
        lengths = lengths_along(x_rot, decoded)
        list_lengths, _ = moving_means.follow(
            self.list_lengths[:, None], self.list_counts, lengths[:, None], list_ids, keep
        )
        codebook, code_counts = product.follow(
            self.codebook, self.code_counts, residuals, codes, keep
        )
        self.assign(CellValues(centroids, list_counts, list_lengths[:, 0], codebook, code_counts))

    def values(self) -> CellValues:
        """What the variables hold now."""
        return CellValues(*(getattr(self, name).read_value() for name in CellValues._fields))

    def assign(self, values: CellValues) -> None:
        """Set what :meth:`values` returns."""
        for name, value in values._asdict().items():
            getattr(self, name).assign(value)


def lengths_along(x_rot: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
    """(n,): how long (n, dim) vectors are along their reconstructions, ⟨x, x̂⟩ / ‖x̂‖.

    It is the length of s · x̂, as what an index with item scales holds the vector; 0 where x̂ is
    zero or points away.
    """
    along = tf.reduce_sum(x_rot * decoded, axis=1)
    return tf.maximum(tf.math.divide_no_nan(along, tf.norm(decoded, axis=1)), 0.0)
