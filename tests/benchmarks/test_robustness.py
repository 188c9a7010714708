"""The robustness benchmark: its design covers all pairs, its task is what it says."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from benchmarks.robustness import FACTORS, ITEMS_A_CLUSTER, Task, covering_design


def test_each_two_values_of_two_factors_meet():
    rows = [asdict(setting) for setting in covering_design()]
    for a, b in itertools.combinations(FACTORS, 2):
        met = {(row[a], row[b]) for row in rows}
        assert met == set(itertools.product(FACTORS[a], FACTORS[b]))
    assert covering_design() == covering_design()
    assert len(rows) < 20


def test_users_get_items_of_their_clusters():
    task = Task(n_items=512, dim=8, popularity="zipf")
    (users, items), *_ = task.batches(2000, 1)
    relevant = task.relevant(users)
    assert set(relevant.lengths) <= {ITEMS_A_CLUSTER, 2 * ITEMS_A_CLUSTER}
    assert all(item in relevant.row(i) for i, item in enumerate(items))
    assert np.mean(items == 0) == pytest.approx(1 / np.sum(1 / np.arange(1, 513)), abs=0.03)
