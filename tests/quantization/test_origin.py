"""The middle of a quantization: where most of it is, whatever a few rows do."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.arrays import LARGEST_VALUE
from merlin_poeem.quantization.origin import middle_of
from tests.index_factories import random_quantization


@pytest.mark.parametrize("encodes_residual", [True, False])
@given(
    far=st.floats(-LARGEST_VALUE, LARGEST_VALUE),
    offset=st.floats(-1e4, 1e4),
    seed=st.integers(0, 2**16),
)
def test_few_far_rows_do_not_move_it(
    encodes_residual: bool, far: float, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    quantization = random_quantization(rng, n_lists=9, encodes_residual=encodes_residual)
    centroids = quantization.coarse_centroids + np.float32(offset)
    codebook = quantization.codebook + np.float32(offset)
    near = [centroids[4:].copy(), codebook[:, 120:].swapaxes(0, 1).reshape(136, -1)]
    centroids[:4], codebook[:, :120] = far, far
    middle = middle_of(replace(quantization, coarse_centroids=centroids, codebook=codebook))
    assert middle.dtype == np.float32
    assert middle.shape == (quantization.dim,)
    rows = near[0] if encodes_residual else near[1]
    assert (middle >= rows.min(axis=0)).all()
    assert (middle <= rows.max(axis=0)).all()
