"""The product quantizer: codes of residuals. Vectors are in the rotated space."""

from __future__ import annotations

import tensorflow as tf

from merlin_poeem.blocks.quantizer import moving_means


def nearest_codes(residuals: tf.Tensor, codebook: tf.Tensor) -> tf.Tensor:
    """(n, pq_dim) int64: the nearest codeword of each subvector of (n, dim) residuals.

    ``codebook`` is (pq_dim, pq_book_size, pq_len).
    """
    subvectors = split(residuals, codebook)
    norms = tf.reduce_sum(codebook**2, axis=2)[:, None]
    distances = norms - 2.0 * tf.matmul(subvectors, codebook, transpose_b=True)
    return tf.transpose(tf.argmin(distances, axis=2))


def decode(codes: tf.Tensor, codebook: tf.Tensor) -> tf.Tensor:
    """(n, dim) vectors that (n, pq_dim) codes stand for; differentiable in the codebook."""
    pq_dim, book_size, pq_len = codebook.shape
    flat = codes + book_size * tf.range(pq_dim, dtype=codes.dtype)
    codewords = tf.gather(tf.reshape(codebook, [pq_dim * book_size, pq_len]), flat)
    return tf.reshape(codewords, [-1, pq_dim * pq_len])


def follow(
    codebook: tf.Tensor, counts: tf.Tensor, residuals: tf.Tensor, codes: tf.Tensor, keep: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Codebook and counts (pq_dim, pq_book_size) after (n, dim) residuals got (n, pq_dim) codes."""
    pq_dim, book_size, pq_len = codebook.shape
    flat = codes + book_size * tf.range(pq_dim, dtype=codes.dtype)
    means, flat_counts = moving_means.follow(
        tf.reshape(codebook, [pq_dim * book_size, pq_len]),
        tf.reshape(counts, [pq_dim * book_size]),
        tf.reshape(residuals, [-1, pq_len]),
        tf.reshape(flat, [-1]),
        keep,
    )
    return tf.reshape(means, codebook.shape), tf.reshape(flat_counts, counts.shape)


def split(vectors: tf.Tensor, codebook: tf.Tensor) -> tf.Tensor:
    """(n, dim) vectors as (pq_dim, n, pq_len) subvectors."""
    pq_dim, _, pq_len = codebook.shape
    return tf.transpose(tf.reshape(vectors, [-1, pq_dim, pq_len]), [1, 0, 2])
