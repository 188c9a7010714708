"""A small made-up Ali-CCP."""

from __future__ import annotations

import pytest

from workflows.aliccp.simulation.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(600, 80, seed=5)
