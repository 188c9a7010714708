"""Lists, rotation and codewords moved to where they fit a catalog."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    turns = rotation and quantization.rotation is not None
    with Progress("refit", (1 + lists) * rounds, "rounds", shown=progress) as bar:
        if lists:
            quantization = _lists_alone(quantization, vectors, counts, rounds, bar)
        bar.doing("all")
        for _ in range(rounds):
            encoded = _Encoded(vectors, *coding.encode(quantization, vectors), counts)
            if turns:
                quantization = _turned(quantization, encoded)
            if lists:
                quantization = _moved_lists(quantization, encoded)
            quantization = _moved_codewords(quantization, encoded)
            bar.update()
    return quantization


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Vectors, what they are coded as, and how much each counts."""

    vectors: Float32
    """(n, dim) float32, raw space."""
    list_ids: Int32
    """(n,) int32."""
    codes: coding.Codes
    """(n, pq_dim)."""
    counts: Float64
    """(n,) float64, 1 at most."""

    def targets(self, quantization: Quantization) -> Float32:
        """(n, dim) what the codes are of, in the rotated space."""
        x_rot = quantization.rotate(self.vectors)
        if not quantization.encodes_residual:
            return x_rot
        return np.asarray(x_rot - quantization.coarse_centroids[self.list_ids], np.float32)

    def codewords(self, quantization: Quantization) -> Float32:
        """(n, dim) the codewords alone, in the rotated space."""
        codewords = quantization.codebook[np.arange(quantization.pq_dim), self.codes]
        return np.asarray(codewords.reshape(len(self.codes), quantization.dim), np.float32)


def _checked_weights(weights: Any, n: int) -> Float64:
    """(n,) float64, the largest 1, so that sums stay finite whatever the weights are."""
    if weights is None:
        return np.ones(n)
    counts = np.asarray(weights, np.float64)
    if counts.shape != (n,):
        raise ValueError(f"weights: expected shape ({n},), one a vector; got {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
        raise ValueError("weights: expected finite numbers of at least 0, and not all of them 0")
    return np.asarray(counts / counts.max(), np.float64)


def _lists_alone(
    quantization: Quantization, vectors: Float32, counts: Float64, rounds: int, bar: Progress
) -> Quantization:
    """Rounds of Lloyd's algorithm, without a look at the codes."""
    bar.doing("lists")
    x_rot, centroids = quantization.rotate(vectors), quantization.coarse_centroids
    for _ in range(rounds):
        centroids = _means(centroids, x_rot, _nearest(x_rot, centroids), counts)
        bar.update()
    return replace(quantization, coarse_centroids=centroids)


def _turned(quantization: Quantization, encoded: _Encoded) -> Quantization:
    """The rotated space turned, with all centroids in it; codewords stay where they are.

    A stretched space is turned as it is: what stretches it comes before.
    """
    weighted = encoded.targets(quantization) * encoded.counts[:, None]
    left, _, right = np.linalg.svd(weighted.T @ encoded.codewords(quantization))
    turn = left @ right
    names = ("coarse_centroids", "rotation", "query_rotation")
    before = {name: getattr(quantization, name) for name in names}
    after = {
        name: (matrix @ turn).astype(np.float32)
        for name, matrix in before.items()
        if matrix is not None
    }
    return replace(quantization, **after)


def _moved_lists(quantization: Quantization, encoded: _Encoded) -> Quantization:
    """Centroids at the mean of what they stand for.

    Beside codes of residuals that is the vector less its codewords: the mean of the vectors would
    leave codewords a mean of their own, which no list has, and adds to the distortion.
    """
    targets = quantization.rotate(encoded.vectors)
    if quantization.encodes_residual:
        targets = targets - encoded.codewords(quantization)
    centroids = quantization.coarse_centroids
    centroids = _means(centroids, targets, encoded.list_ids, encoded.counts)
    return replace(quantization, coarse_centroids=centroids)


def _moved_codewords(quantization: Quantization, encoded: _Encoded) -> Quantization:
    """Codewords at the mean of what they stand for."""
    targets = encoded.targets(quantization)
    subvectors = targets.reshape(len(targets), quantization.pq_dim, quantization.pq_len)
    codebook = [
        _means(codewords, subvectors[:, m], encoded.codes[:, m], encoded.counts)
        for m, codewords in enumerate(quantization.codebook)
    ]
    return replace(quantization, codebook=np.stack(codebook))


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
