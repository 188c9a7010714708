"""Where distances are counted from: they stay the same when everything is moved alike."""

from __future__ import annotations

import numpy as np

from merlin_poeem.arrays import Float32
from merlin_poeem.quantization.item_codes import Quantization


def middle_of(quantization: Quantization) -> Float32:
    """(dim,) float32, rotated: the middle of the reconstructions, that few far ones do not move.

    Squares of what is near the origin lose the fewest digits. The median and not the mean, which
    one far item would take with it, and of the quantization alone: parts of one catalog have to
    score their items alike, to the bit.
    """
    if quantization.encodes_residual:
        return np.asarray(np.median(quantization.coarse_centroids, axis=0), np.float32)
    return np.asarray(np.median(quantization.codebook, axis=1).ravel(), np.float32)
