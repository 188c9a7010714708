"""Popularity: ranks as often as they should come."""

from __future__ import annotations

import numpy as np
import pytest

from workflows.aliccp.simulation.groups import draw_ranks, rank_share


def test_ranks_follow_their_shares() -> None:
    sizes = np.full(200_000, 30)
    counts = np.bincount(draw_ranks(sizes, np.random.default_rng(0)), minlength=30)
    shares = rank_share(np.arange(30), 30)
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(counts / counts.sum(), shares, atol=0.004)
