"""What made-up users click on: the best ranking is known, and tastes can be learned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from merlin_poeem.evaluate import recall_at_k
from workflows.aliccp.simulation.clicks import best_items
from workflows.aliccp.simulation.impressions import draw_rows
from workflows.aliccp.simulation.world import FIRST_ID, World


def test_the_best_items_are_found_by_counting_clicks() -> None:
    world = World.make(300, 1, seed=2)
    rows = pa.concat_tables(draw_rows(world, 400_000))
    clicked = rows.filter(rows["click"].cast(pa.bool_()))["item_id"].to_pandas()
    shares = clicked.value_counts(normalize=True)
    user = [FIRST_ID["user_id"]]
    best = best_items(world, user, 20)[0]
    assert shares[best].sum() == pytest.approx(shares[:20].sum(), rel=0.05)
    assert np.all(np.diff(shares.reindex(best).to_numpy()) < 0.02)
    assert len(set(best_items(world, user, 1000)[0])) == 300


def test_tastes_beat_popularity() -> None:
    world = World.make(5_000, 200)
    rows = pa.concat_tables(draw_rows(world, 60_000)).to_pandas()
    clicks = rows[(rows["click"] == 1) & rows["user_id"].notna()]
    relevant = clicks.groupby("user_id")["item_id"].unique()
    best = best_items(world, relevant.index.astype(np.int64), 100)
    popular = np.tile(world.item_ids[:100], (len(relevant), 1))
    best, popular = (recall_at_k(ids, list(relevant), 100) for ids in (best, popular))
    assert best > 0.6
    assert best > 3 * popular


def test_unknown_users_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="user_ids: expected 1 to 80, got 0 to 81"):
        best_items(world, [0, 81], 5)
