"""Gowalla's towers: what they are told of users and places, and a tiny joint training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from merlin_poeem.blocks import export_index, item_vectors, query_vectors  # noqa: E402
from workflows.gowalla import towers  # noqa: E402
from workflows.gowalla.simulate import simulate  # noqa: E402
from workflows.gowalla.towers import NEIGHBOURS, VISITED, Task  # noqa: E402

CHECK_INS = simulate(100, 300, seed=4)


@pytest.fixture(scope="module", autouse=True)
def small_vectors() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(towers, "DIM", 16)
        patch.setattr(towers, "N_LISTS", 4)
        yield


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.of(CHECK_INS)


def test_users_are_known_by_all_training_visits(task: Task) -> None:
    visited = CHECK_INS.train.groupby("user_id")["item_id"].apply(set)
    for user, places in zip(task.judged.users["user_id"], task.judged.users[VISITED], strict=True):
        assert set(places) == visited[user]


def test_a_visit_to_learn_is_not_among_those_that_are_read(task: Task) -> None:
    pairs = task.training_pairs
    counts = CHECK_INS.train["user_id"].value_counts()
    others = pairs[pairs["user_id"].map(counts) > 1]
    assert len(others) > 0.9 * len(pairs)
    places = np.stack(others[VISITED].tolist())
    assert places.shape[1] == towers.N_VISITS
    assert not (places == others["item_id"].to_numpy()[:, None]).any()


def test_places_are_the_same_in_training_and_catalog(task: Task) -> None:
    catalog = task.items.set_index("item_id")
    first = task.training_pairs.iloc[0]
    np.testing.assert_array_equal(first[NEIGHBOURS], catalog.loc[first["item_id"], NEIGHBOURS])
    assert first["item_popularity"] == catalog.loc[first["item_id"], "item_popularity"]


def test_vectors_are_of_ids_and_their_lists(task: Task) -> None:
    model = towers.plain_model(task)
    towers.train(model, task, batch_size=256, epochs=1)
    items = task.items.head(4)
    ids, vectors = item_vectors(model, items)
    swapped = items.assign(**{NEIGHBOURS: items[NEIGHBOURS].tolist()[::-1]})
    _, others = item_vectors(model, swapped)
    np.testing.assert_array_equal(ids, items["item_id"])
    np.testing.assert_allclose(
        np.linalg.norm(vectors, axis=1), np.linalg.norm(others, axis=1), rtol=1e-5
    )
    assert np.abs(vectors - others).max() > 0.05
    users = task.judged.users.head(4)
    _, queries = query_vectors(model, users)
    _, others = query_vectors(model, users.assign(**{VISITED: users[VISITED].tolist()[::-1]}))
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    assert np.abs(queries - others).max() > 0.05


def test_joint_training_leaves_an_index_of_all_places(task: Task) -> None:
    quantizer = towers.new_quantizer(pq_dim=4, pq_bits=4, sample_size=256)
    model = towers.joint_model(task, quantizer)
    towers.train(model, task, batch_size=64, epochs=2)
    towers.settle(model, task)
    index = export_index(model, task.items, n_probes=4)
    np.testing.assert_array_equal(np.sort(index.item_ids), task.items["item_id"])
