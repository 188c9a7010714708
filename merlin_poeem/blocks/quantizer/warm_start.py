"""First values of centroids, rotation and codebook, and new ones for dead cells, from a sample.

Written with TensorFlow's own operations, so that the phase change happens inside the training
graph: the model stays saveable and needs no callback.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from merlin_poeem.blocks.quantizer import product
from merlin_poeem.blocks.quantizer.rotation import procrustes

ITERATIONS = 25
CHUNK_DISTANCES = 1 << 24
# Of the way from a centroid to a point of its cell, where a dead centroid begins anew.
SPLIT = 0.1


def initial_centroids(sample: tf.Tensor, n_lists: int, seed: int) -> tf.Tensor:
    """(n_lists, dim) k-means centroids of a (n, dim) sample."""
    return kmeans(sample[None], n_lists, seed)[0]


def initial_codebook(
    residuals: tf.Tensor, pq_dim: int, book_size: int, *, rotate: bool, seed: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Codebook (pq_dim, book_size, pq_len) of (n, dim) residuals, and its rotation (dim, dim).

    With ``rotate``, non-parametric OPQ (Ge et al., CVPR 2013, section 3.1): Lloyd steps and
    Procrustes solutions take turns. Otherwise the rotation is the identity.
    """
    dim = residuals.shape[1]
    rotation = tf.eye(dim)
    shape = tf.TensorSpec([pq_dim, book_size, dim // pq_dim])
    codebook = kmeans(product.split(residuals, shape), book_size, seed)
    if not rotate:
        return codebook, rotation

    def alternate(codebook: tf.Tensor, rotation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        codes = product.nearest_codes(tf.matmul(residuals, rotation), codebook)
        rotation = procrustes(residuals, product.decode(codes, codebook))
        points = product.split(tf.matmul(residuals, rotation), codebook)
        return lloyd_step(points, codebook), rotation

    return _repeat(2 * ITERATIONS, alternate, codebook, rotation)


def kmeans(points: tf.Tensor, n_clusters: int, seed: int) -> tf.Tensor:
    """(m, n_clusters, width) centroids of m independent sets of points, (m, n, width)."""
    n_points = tf.shape(points)[1]
    noise = tf.random.stateless_uniform([n_points], seed=[seed, 0])
    # Fewer points than clusters: each point starts several, and the spare ones stay empty.
    start = tf.argsort(noise)[:n_clusters]
    start = tf.gather(start, tf.range(n_clusters) % tf.size(start))
    centroids = tf.ensure_shape(
        tf.gather(points, start, axis=1), [points.shape[0], n_clusters, points.shape[2]]
    )
    return _repeat(ITERATIONS, lambda centroids: (lloyd_step(points, centroids),), centroids)[0]


def lloyd_step(points: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
    """One k-means step, (m, k, width) to the same; empty clusters move to the farthest points."""
    n_sets, n_clusters, width = centroids.shape
    nearest, distances = assign(points, centroids)
    offsets = n_clusters * tf.range(n_sets, dtype=nearest.dtype)[:, None]
    segments = tf.reshape(nearest + offsets, [-1])
    flat = tf.reshape(points, [-1, width])
    sums = tf.math.unsorted_segment_sum(flat, segments, n_sets * n_clusters)
    ones = tf.ones_like(segments, dtype=points.dtype)
    counts = tf.math.unsorted_segment_sum(ones, segments, n_sets * n_clusters)
    means = tf.reshape(sums / tf.maximum(counts, 1.0)[:, None], [n_sets, n_clusters, width])
    empty = tf.reshape(counts, [n_sets, n_clusters]) == 0
    farthest = tf.gather(points, _farthest(distances, empty), batch_dims=1)
    return tf.where(empty[..., None], farthest, means)


def assign(points: tf.Tensor, centroids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Nearest centroid (m, n) int64 and squared distance (m, n), in chunks of bounded memory."""
    n_sets, n_clusters, _ = centroids.shape
    norms = tf.reduce_sum(centroids**2, axis=2)[:, None]
    n_points = tf.shape(points)[1]
    rows = max(1, CHUNK_DISTANCES // (n_sets * n_clusters))

    def assign_chunk(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chunk = points[:, start : start + rows]
        distances = norms - 2.0 * tf.matmul(chunk, centroids, transpose_b=True)
        padding = [[0, 0], [0, rows - tf.shape(chunk)[1]]]
        nearest = tf.pad(tf.argmin(distances, axis=2), padding)
        smallest = tf.reduce_min(distances, axis=2) + tf.reduce_sum(chunk**2, axis=2)
        return nearest, tf.pad(smallest, padding)

    nearest, smallest = tf.map_fn(
        assign_chunk,
        tf.range(0, n_points, rows),
        fn_output_signature=(
            tf.TensorSpec([n_sets, rows], tf.int64),
            tf.TensorSpec([n_sets, rows], points.dtype),
        ),
        parallel_iterations=1,
    )
    return _join_chunks(nearest, n_points), _join_chunks(smallest, n_points)


def revive(
    centroids: tf.Tensor,
    dead: tf.Tensor,
    points: tf.Tensor,
    nearest: tf.Tensor,
    distances: tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    """(m, k, width) centroids, where each ``dead`` (m, k) one splits the cell of a living one.

    Of the (m, n, width) points, at squared ``distances`` (m, n) from their ``nearest`` centroids,
    some are drawn without replacement, each with a probability in proportion to its distance, as
    k-means++ draws: cells with much distortion, and not with one stray point. The new centroid is
    beside that of the drawn point's cell, in the direction of the point, so that about half of the
    cell comes to it. At the point itself, in many dimensions, nothing else would come to it.
    ``seed`` (2,) makes the draw.
    """
    # The n largest of d / E, with E exponential: weighted draws (Efraimidis and Spirakis, 2006).
    uniform = tf.random.stateless_uniform(tf.shape(distances), seed, minval=1e-7)
    drawn = _farthest(distances / (1e-7 - tf.math.log(uniform)), dead)
    beside = tf.gather(centroids, tf.gather(nearest, drawn, batch_dims=1), batch_dims=1)
    moved = beside + SPLIT * (tf.gather(points, drawn, batch_dims=1) - beside)
    return tf.where(dead[..., None], moved, centroids)


def sample_size(n_lists: int, book_size: int) -> int:
    """Item vectors to start from: at least 32 a centroid and 64 a codeword, a power of two."""
    return 1 << math.ceil(math.log2(max(32 * n_lists, 64 * book_size)))


def residuals_of(sample: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
    """(n, dim) vectors less their nearest centroids."""
    nearest, _ = assign(sample[None], centroids[None])
    return sample - tf.gather(centroids, nearest[0])


def _repeat(
    times: int, step: Callable[..., tuple[tf.Tensor, ...]], *state: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """``state`` after ``times`` of ``step``, a loop of the graph: AutoGraph does not reach here."""
    final: tuple[tf.Tensor, ...] = tf.while_loop(
        lambda *_: True, step, state, maximum_iterations=times, parallel_iterations=1
    )
    return final


def _join_chunks(chunks: tf.Tensor, n_points: tf.Tensor) -> tf.Tensor:
    """(n_chunks, m, rows) to (m, n_points)."""
    joined = tf.transpose(chunks, [1, 0, 2])
    return tf.reshape(joined, [tf.shape(joined)[0], -1])[:, :n_points]


def _farthest(distances: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
    """(m, k): for the i-th ``empty`` cluster of a set, the index of the set's i-th largest of
    ``distances`` (m, n)."""
    order = tf.argsort(distances, axis=1, direction="DESCENDING")
    rank = tf.cumsum(tf.cast(empty, tf.int32), axis=1, exclusive=True) % tf.shape(distances)[1]
    return tf.gather(order, rank, axis=1, batch_dims=1)
