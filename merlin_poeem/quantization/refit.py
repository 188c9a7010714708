"""Lists, rotation and codewords moved to where they fit a catalog."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import LARGEST_VALUE, Float32, Int32, as_vectors
from merlin_poeem.progress import Progress
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import positive_int

ROUNDS = 16
CHUNK_BYTES = 64 << 20
Float64 = NDArray[np.float64]


def refit(
    quantization: Quantization,
    vectors: Float32,
    *,
    weights: Any = None,
    rounds: int = ROUNDS,
    lists: bool = True,
    rotation: bool = True,
    progress: bool = True,
) -> Quantization:
    """The same quantization, moved so that it fits ``vectors`` better.

    First the lists alone, ``rounds`` of Lloyd's algorithm from the centroids that there are. Then
    ``rounds`` of all: the vectors are encoded, and rotation, centroids and codewords move, one
    after the other, to where the distortion of these codes is least; the rotation by Procrustes, as
    in OPQ (Ge et al., CVPR 2013, section 3.1), the others to the mean of what they stand for. One
    that stands for nothing stays.

    An index that was trained on batches follows the latest of them, and is a little behind the
    catalog; one that ``fit`` made counts all vectors alike, where some are wanted more often.

    Parameters
    ----------
    vectors
        (n, dim) float32, raw space; of unit length where the metric is cosine. A sample of 256 for
        each centroid and codeword is enough, all are better.
    weights
        (n,) how much each vector counts, such as how often its item is wanted; None: all alike.
    rounds
        16 are near the end of what there is to gain.
    lists
        Whether they move. Where they are is worth more than the distortion if they were trained to
        be those that queries visit.
    rotation
        Whether it turns; where there is none, none comes.
    progress
        Work of more than two seconds shows a bar on stderr.

    Returns
    -------
    Quantization
        Its scale range is that of ``quantization``.

    Raises
    ------
    TypeError, ValueError
        Vectors that an index would refuse, none of them; weights of another number, below 0, or
        that are not finite or all 0.
    """
    vectors = as_vectors("vectors", vectors, quantization.dim, largest=LARGEST_VALUE)
    rounds = positive_int("rounds", rounds)
    if not len(vectors):
        raise ValueError("vectors: expected at least one, got none")
    counts = _checked_weights(weights, len(vectors))
    with Progress("refit", (1 + lists) * rounds, "rounds", shown=progress) as bar:
        bar.doing("lists")
        x_rot = quantization.rotate(vectors)
        for _ in range(rounds if lists else 0):
            centroids = quantization.coarse_centroids
            centroids = _means(centroids, x_rot, _nearest(x_rot, centroids), counts)
            quantization = replace(quantization, coarse_centroids=centroids)
            bar.update()
        bar.doing("all")
        for _ in range(rounds):
            list_ids, codes = coding.encode(quantization, vectors)
            if rotation and quantization.rotation is not None:
                quantization = _turned(quantization, vectors, list_ids, codes, counts)
            if lists:
                quantization = _moved_lists(quantization, vectors, list_ids, codes, counts)
            quantization = _moved_codewords(quantization, vectors, list_ids, codes, counts)
            bar.update()
    return quantization


def _checked_weights(weights: Any, n: int) -> Float64:
    if weights is None:
        return np.ones(n)
    counts = np.asarray(weights, np.float64)
    if counts.shape != (n,):
        raise ValueError(f"weights: expected shape ({n},), one a vector; got {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
        raise ValueError("weights: expected finite numbers of at least 0, and not all of them 0")
    return counts


def _turned(
    quantization: Quantization,
    vectors: Float32,
    list_ids: Int32,
    codes: coding.Codes,
    counts: Float64,
) -> Quantization:
    """The rotated space turned, with all centroids in it; codewords stay where they are.

    A stretched space is turned as it is: what stretches it comes before.
    """
    weighted = _targets(quantization, vectors, list_ids) * (counts / counts.max())[:, None]
    left, _, right = np.linalg.svd(weighted.T @ _decoded(quantization, codes))
    turn = left @ right

    names = ("coarse_centroids", "rotation", "query_rotation")
    before = {name: getattr(quantization, name) for name in names}
    after = {
        name: (matrix @ turn).astype(np.float32)
        for name, matrix in before.items()
        if matrix is not None
    }
    return replace(quantization, **after)


def _moved_lists(
    quantization: Quantization,
    vectors: Float32,
    list_ids: Int32,
    codes: coding.Codes,
    counts: Float64,
) -> Quantization:
    """Centroids at the mean of what they stand for.

    Beside codes of residuals that is the vector less its codewords: the mean of the vectors would
    leave codewords a mean of their own, which no list has, and adds to the distortion.
    """
    targets = quantization.rotate(vectors)
    if quantization.encodes_residual:
        targets = targets - _decoded(quantization, codes)
    centroids = _means(quantization.coarse_centroids, targets, list_ids, counts)
    return replace(quantization, coarse_centroids=centroids)


def _moved_codewords(
    quantization: Quantization,
    vectors: Float32,
    list_ids: Int32,
    codes: coding.Codes,
    counts: Float64,
) -> Quantization:
    """Codewords at the mean of what they stand for."""
    targets = _targets(quantization, vectors, list_ids)
    subvectors = targets.reshape(len(vectors), quantization.pq_dim, quantization.pq_len)
    codebook = [
        _means(codewords, subvectors[:, m], codes[:, m], counts)
        for m, codewords in enumerate(quantization.codebook)
    ]
    return replace(quantization, codebook=np.stack(codebook))


def _targets(quantization: Quantization, vectors: Float32, list_ids: Int32) -> Float32:
    """(n, dim) what the codes are of, in the rotated space."""
    x_rot = quantization.rotate(vectors)
    if not quantization.encodes_residual:
        return x_rot
    return np.asarray(x_rot - quantization.coarse_centroids[list_ids], np.float32)


def _decoded(quantization: Quantization, codes: coding.Codes) -> Float32:
    """(n, dim) the codewords alone, in the rotated space."""
    codewords = quantization.codebook[np.arange(quantization.pq_dim), codes]
    return np.asarray(codewords.reshape(len(codes), quantization.dim), np.float32)


def _nearest(vectors: Float32, centroids: Float32) -> NDArray[np.int64]:
    """(n,) the nearest of the (k, width) ``centroids``, bounded in memory for any n."""
    rows = max(1, CHUNK_BYTES // (4 * len(centroids)))
    starts = range(0, len(vectors), rows)
    return np.concatenate([coding.nearest(vectors[at : at + rows], centroids) for at in starts])


def _means(cells: Float32, vectors: Float32, cell_ids: NDArray[Any], counts: Float64) -> Float32:
    """(k, width) of the (n, width) vectors in each of (k, width) cells; where none is, the cell."""
    k = len(cells)
    totals = np.bincount(cell_ids, counts, k)
    sums = np.stack([np.bincount(cell_ids, counts * each, k) for each in vectors.T], axis=1)
    means = sums / np.where(totals > 0, totals, 1)[:, None]
    return np.where(totals[:, None] > 0, means, cells).astype(np.float32)
