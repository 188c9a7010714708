"""Made-up items and users: the catalog, and how many there are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from merlin_poeem.datasets.aliccp.items import distinct_items
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import World, scaled


def test_the_catalog_agrees_with_the_rows(world: World) -> None:
    catalog = pa.concat_tables(world.catalog(chunk=250)).to_pandas().set_index("item_id")
    assert len(catalog) == world.n_items
    assert catalog.index.is_unique
    found = distinct_items(draw_rows(world, 3_000)).set_index("item_id").astype(np.int64)
    pd.testing.assert_frame_equal(found, catalog.loc[found.index])


def test_too_few_items_are_refused() -> None:
    with pytest.raises(ValueError, match="n_items: expected 100 to 9999999, got 3"):
        World.make(3, 5)


def test_scales_as_the_real_set() -> None:
    assert scaled(84_000_000) == (4_300_000, 400_000)
    assert scaled(10) == (100, 10)
