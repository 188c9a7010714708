"""Cells: the lists and codewords of a quantizer, and how they follow the vectors they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from merlin_poeem.blocks.quantizer import coarse, moving_means, product


@dataclass(frozen=True, eq=False)
class Cells:
    """What an index is made with, in a layer's variables. Where not said, vectors are rotated."""

    coarse_centroids: tf.Variable
    """(n_lists, dim) float32."""

    list_counts: tf.Variable
    """(n_lists,) float32: of the latest vectors, how many each list stands for."""

    codebook: tf.Variable
    """(pq_dim, pq_book_size, pq_len) float32."""

    code_counts: tf.Variable
    """(pq_dim, pq_book_size) float32: of the latest vectors, how many each codeword stands for."""

    rotation: tf.Variable
    """(dim, dim) float32."""

    def rotate(self, vectors: tf.Tensor) -> tf.Tensor:
        """(n, dim) vectors of the raw space, in that of the cells."""
        return tf.matmul(vectors, self.rotation)

    def rotate_back(self, x_rot: tf.Tensor) -> tf.Tensor:
        """(n, dim) vectors, back in the raw space."""
        return tf.matmul(x_rot, self.rotation, transpose_b=True)

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
        self, x_rot: tf.Tensor, list_ids: tf.Tensor, codes: tf.Tensor, *, keep: tf.Tensor
    ) -> None:
        """Move centroids and codebook towards the (n, dim) vectors that they encoded.

        What came before counts ``keep`` as much: see :func:`.moving_means.follow`.
        """
        residuals = x_rot - tf.gather(self.coarse_centroids, list_ids)
        centroids, list_counts = moving_means.follow(
            self.coarse_centroids, self.list_counts, x_rot, list_ids, keep
        )
        codebook, code_counts = product.follow(
            self.codebook, self.code_counts, residuals, codes, keep
        )
        self.assign(centroids, list_counts, codebook, code_counts)

    def values(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Centroids, their counts, codebook and its counts."""
        lists = self.coarse_centroids.read_value(), self.list_counts.read_value()
        return *lists, self.codebook.read_value(), self.code_counts.read_value()

    def assign(
        self,
        centroids: tf.Tensor,
        list_counts: tf.Tensor,
        codebook: tf.Tensor,
        code_counts: tf.Tensor,
    ) -> None:
        """Set what :meth:`values` returns."""
        self.coarse_centroids.assign(centroids)
        self.list_counts.assign(list_counts)
        self.codebook.assign(codebook)
        self.code_counts.assign(code_counts)
